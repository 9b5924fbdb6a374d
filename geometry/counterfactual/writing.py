"""A computed trace on the disk: whole, beside the run that it was computed from, or not at all."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import optgeom
from optgeom.geometry.catalogue import columns
from optgeom.geometry.counterfactual.course import Course
from optgeom.geometry.counterfactual.measuring import OWN_COLUMNS, Rows
from optgeom.geometry.counterfactual.placing import hidden_in, put
from optgeom.geometry.counterfactual.rule import Rule
from optgeom.traces.errors import TraceError
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.schema import Cell as Key
from optgeom.traces.store import Trace
from optgeom.traces.writer import TraceWriter


class ComputedTrace:
    """One rule's trace while it is written: under a hidden folder, renamed when it is whole.

    Args:
        trace: The run that it is computed from.
        rule: The rule.
        courses: What is computed by that rule.
        target: Where it shall stand.
    """

    def __init__(self, trace: Trace, rule: Rule, courses: Sequence[Course], target: Path) -> None:
        self._trace, self.rule, self.target = trace, rule, target
        self._hidden = hidden_in(target.parent)
        self._optimizer = rule.title
        self._step: int | None = None
        info = _info(trace, rule, courses, target.name)
        self._writer = TraceWriter(self._hidden / target.name, info, wait=True)

    def add(self, layer: LayerInfo, step: int, rows: Rows, *, raw: bool) -> None:
        """Write a cell; steps ascend.

        Args:
            layer: The layer.
            step: The step.
            rows: Of the cell.
            raw: Whether to store the update itself.
        """
        if self._step is not None and step != self._step:
            self._writer.end_step(self._step)
        self._step = step
        key = Key(step, self._optimizer, layer.name, layer.kind, layer.block, "update")
        self._writer.metrics(key, rows.metrics)
        self._writer.neurons(key, rows.neuron_norms)
        self._writer.spectrum(key, rows.singular_values, rows.spectra)
        if raw and rows.update is not None:
            self._writer.update(key, rows.update.contiguous().numpy())

    def finish(self, *, overwrite: bool) -> None:
        """Close it and put it in its place.

        Args:
            overwrite: Whether what was computed from the run before is replaced.

        Raises:
            TraceExists: something has appeared there that may not be replaced.
            TraceError: it could not be written.
        """
        self._writer.close()
        if self._writer.failure is not None or self._writer.dropped:
            why = self._writer.failure or f"left out: {dict(self._writer.dropped)}"
            raise TraceError(f"{self.target} could not be written: {why}")
        made = self._hidden / self.target.name
        put(made, self.target, self._trace, self.rule, overwrite=overwrite)

    def abandon(self) -> None:
        """Remove what is there of it; nothing where it is finished."""
        self._writer.close()
        shutil.rmtree(self._hidden, ignore_errors=True)


def _info(trace: Trace, rule: Rule, courses: Sequence[Course], run: str) -> RunInfo:
    return RunInfo(
        run=run,
        versions={
            "optgeom": optgeom.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        command=tuple(sys.argv),
        optimizers=(OptimizerInfo(rule.title, f"computed.{rule.title}", ({**rule.settings},)),),
        layers=_layers(trace, courses),
        columns={
            "metrics": {**columns("metrics"), **OWN_COLUMNS},
            "spectra": columns("spectra"),
        },
        computed=_computed(trace, rule, courses),
    )


def _layers(trace: Trace, courses: Sequence[Course]) -> tuple[LayerInfo, ...]:
    """What is computed, in the model's order."""
    found = {}
    for course in courses:
        rule, axis = course.rule, course.rule.neuron_axis
        for layer in course.layers:
            found[layer.name] = replace(
                layer,
                optimizer=rule.title,
                group=0,
                algorithm=rule.algorithm,
                neuron_axis=None if axis is None else axis(course.whole.shape),
                placement="replicate",
            )
    return tuple(found[layer.name] for layer in trace.layers if layer.name in found)


def _computed(trace: Trace, rule: Rule, courses: Sequence[Course]) -> dict[str, Any]:
    inputs: dict[str, int] = {}
    caveats: dict[str, int] = {}
    for course in courses:
        count = len(course.layers)
        inputs[course.entering.said] = inputs.get(course.entering.said, 0) + count
        for caveat in course.caveats:
            caveats[caveat] = caveats.get(caveat, 0) + count
    return {
        "from": trace.info.run,
        "from_created": trace.info.created,
        "rule": rule.name,
        "what": rule.words,
        "source": rule.source,
        "settings": dict(rule.settings),
        "input": inputs,
        "caveats": caveats,
        "second_moment": _moment(rule, courses),
    }


def _moment(rule: Rule, courses: Sequence[Course]) -> dict[str, int] | None:
    if rule.second_moment is None:
        return None
    counts: dict[str, int] = {}
    for course in courses:
        for step in course.wanted:
            how = (course.bases or {})[step].how
            counts[how] = counts.get(how, 0) + len(course.layers)
    return {"steps_needed": rule.second_moment.steps_needed, **dict(sorted(counts.items()))}
