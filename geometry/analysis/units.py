"""What of a trace is still to be measured, in units that any process can measure by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optgeom.geometry.catalogue import METRICS, columns
from optgeom.traces.info import LayerInfo
from optgeom.traces.schema import KEYS, STAGES
from optgeom.traces.store import Trace

ANALYSIS_VERSION = 1
"""Raised when the analysis computes more: rows of a lower version are analyzed again."""

MARK = "analysis_version"
COLUMNS: Mapping[str, str] = {
    **columns("metrics"),
    **columns("spectra"),
    "status": "string",
    "spectrum_status": "string",
    "spectrum_method": "string",
}
"""What an analysis may fill in, with Arrow types."""

UNIT_BYTES = 128 << 20
"""Raw float32 matrices of a unit, about: a second's work or two."""

GROUP_BYTES = 8 << 20
"""Layers whose matrices of a step are smaller than this together are measured together: a file
gives them up a few megabytes at a time."""

LONGEST_UNIT = 64
"""Captures in a unit at most."""

_FACTS = (
    "lr",
    "source",
    "status",
    "spectrum_status",
    "noise_floor",
    "lost_update_fraction",
    "condition_number",
    "nuclear_norm",
)
_NO_SPECTRUM = frozenset({"lost", "zero", "non_finite"})
GRADIENT_STAGES = frozenset(METRICS["cosine_gradient"].stages)
"""The stages that are compared with the gradient."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of a cell.

    Attributes:
        keys: Its key columns.
        facts: The values that measuring looks at.
        there: Names of the columns that are not null.
    """

    keys: Mapping[str, Any]
    facts: Mapping[str, Any]
    there: frozenset[str]

    def lacks(self, *names: str) -> bool:
        """Whether one of the columns is null."""
        return not self.there.issuperset(names)

    @property
    def is_measurable(self) -> bool:
        """Whether the capture found a finite matrix that is not zero, or did not look."""
        return self.facts.get("status") not in ("zero", "non_finite")

    @property
    def may_have_spectrum(self) -> bool:
        """Whether the capture did not refuse a spectrum for good."""
        return self.facts.get("spectrum_status") not in _NO_SPECTRUM


@dataclass(frozen=True, slots=True)
class Task:
    """One captured step of a layer.

    Attributes:
        layer: The layer.
        step: The step.
        raw: Stages whose matrices the trace holds.
        pending: Those of them that are to be measured, with what is recorded of each.
        gradient_nuclear_norm: As recorded with the gradient.
        previous_step: The step of the raw update before; None if this is the first.
    """

    layer: LayerInfo
    step: int
    raw: tuple[str, ...]
    pending: Mapping[str, Record]
    gradient_nuclear_norm: float | None
    previous_step: int | None

    @property
    def needed(self) -> tuple[str, ...]:
        """The stages whose matrices are read: those pending, and their companions."""
        wanted = set(self.pending)
        if "update" in wanted:
            wanted |= {"weight", "gradient"}
        if wanted & GRADIENT_STAGES:
            wanted.add("gradient")
        if self._lacks_row_error:
            wanted.add("ns_input")
        return tuple(stage for stage in self.raw if stage in wanted)

    @property
    def lacks_cosine(self) -> bool:
        """Whether the update before is needed."""
        update = self.pending.get("update")
        return (
            self.previous_step is not None
            and update is not None
            and update.lacks("cosine_previous")
        )

    @property
    def lacks_descent(self) -> bool:
        """Whether the update's spectrum needs the gradient's nuclear norm."""
        update = self.pending.get("update")
        return update is not None and "gradient" in self.raw and update.lacks("descent_efficiency")

    def lacks_spectrum(self, stage: str) -> bool:
        """Whether a stage has to be decomposed, for itself or for another."""
        if stage == "ns_input" and self._lacks_row_error:
            return True
        record = self.pending.get(stage)
        if record is None or not record.may_have_spectrum:
            return False
        lacking = {
            "ns_input": ("condition_number", "leverage_cv"),
            "orthogonalized": ("condition_number", "sigma_min"),
        }.get(stage, ("condition_number",))
        return (
            record.lacks(*lacking)
            or (stage == "orthogonalized" and self._lacks_row_error)
            or (stage == "update" and self.lacks_descent)
        )

    @property
    def _lacks_row_error(self) -> bool:
        record = self.pending.get("orthogonalized")
        return (
            record is not None
            and "ns_input" in self.raw
            and record.may_have_spectrum
            and record.lacks("ns_row_error")
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive captures of one layer, or of a few small ones that lie together in their files.

    The same ones whoever asks, and whatever has been measured of them.

    Attributes:
        captures: The tasks of each step, ascending by step.
        nbytes: Memory that measuring it takes, about.
        version: The analysis that made it.
    """

    captures: tuple[tuple[Task, ...], ...]
    nbytes: int
    version: int = ANALYSIS_VERSION

    @property
    def cells(self) -> int:
        """How many cells it measures."""
        return sum(len(task.pending) for tasks in self.captures for task in tasks)


def pending(trace: Trace) -> list[Unit]:
    """The units of a trace that are not measured, in the model's order.

    Args:
        trace: Any trace; of its raw matrices the keys alone are read.
    """
    records = _records(trace)
    units: list[Unit] = []
    group: list[_Captured] = []
    for layer in trace.layers:
        captured = _Captured.of(trace, layer)
        if not captured.steps:
            continue
        group.append(captured)
        if sum(one.step_bytes for one in group) >= GROUP_BYTES:
            units.extend(_units(trace, group, records))
            group = []
    if group:
        units.extend(_units(trace, group, records))
    return units


@dataclass(frozen=True, slots=True)
class _Captured:
    """The raw matrices of a layer."""

    layer: LayerInfo
    by_stage: Mapping[str, frozenset[int]]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, trace: Trace, layer: LayerInfo) -> _Captured:
        by_stage = {
            stage: frozenset(trace.steps(layer.name, stage, "updates").tolist()) for stage in STAGES
        }
        by_stage = {stage: steps for stage, steps in by_stage.items() if steps}
        return cls(layer, by_stage, tuple(sorted(frozenset().union(*by_stage.values()))))

    @property
    def step_bytes(self) -> int:
        rows, cols = self.layer.shape
        return 4 * rows * cols * len(self.by_stage)

    @property
    def work_bytes(self) -> int:
        """Two captures, an update before, float64 copies of one matrix and its products."""
        rows, cols = self.layer.shape
        return 2 * self.step_bytes + 5 * 4 * rows * cols + 40 * min(rows, cols) ** 2


def _units(
    trace: Trace, group: list[_Captured], records: Mapping[tuple[int, str, str], Record]
) -> Iterator[Unit]:
    steps = sorted(set().union(*(one.steps for one in group)))
    length = UNIT_BYTES // sum(one.step_bytes for one in group)
    length = min(LONGEST_UNIT, max(1, length))
    nbytes = sum(one.work_bytes for one in group)
    previous: dict[str, int] = {}
    captures: list[tuple[Task, ...]] = []
    for place, step in enumerate(steps):
        if place % length == 0 and captures:
            yield Unit(tuple(captures), nbytes)
            captures = []
        tasks = tuple(
            task
            for one in group
            if (task := _task(trace, one, step, previous.get(one.layer.name), records)) is not None
        )
        if tasks:
            captures.append(tasks)
        previous |= {
            one.layer.name: step for one in group if step in one.by_stage.get("update", ())
        }
    if captures:
        yield Unit(tuple(captures), nbytes)


def _task(
    trace: Trace,
    captured: _Captured,
    step: int,
    previous: int | None,
    records: Mapping[tuple[int, str, str], Record],
) -> Task | None:
    layer = captured.layer
    raw = tuple(stage for stage, steps in captured.by_stage.items() if step in steps)
    left = {}
    for stage in raw:
        record = records.get((step, layer.name, stage)) or _unrecorded(trace, layer, step, stage)
        if not _is_done(record):
            left[stage] = record
    if not left:
        return None
    gradient = records.get((step, layer.name, "gradient"))
    nuclear = None if gradient is None else gradient.facts.get("nuclear_norm")
    return Task(layer, step, raw, left, nuclear, previous)


def _is_done(record: Record) -> bool:
    return (record.facts.get(MARK) or 0) >= ANALYSIS_VERSION


def _unrecorded(trace: Trace, layer: LayerInfo, step: int, stage: str) -> Record:
    started = [one.attempt for one in trace.info.attempts if one.start_step <= step]
    keys = {
        "run": trace.info.run,
        "attempt": max(started, default=0),
        "step": step,
        "optimizer": layer.optimizer,
        "layer": layer.name,
        "kind": layer.kind,
        "block": layer.block,
        "stage": stage,
    }
    return Record(keys, {}, frozenset())


def _records(trace: Trace) -> dict[tuple[int, str, str], Record]:
    steps = trace.steps(stage=None, table="updates")
    table = trace.metrics()
    table = table.filter(pc.is_in(table["step"], value_set=pa.array(steps, pa.int64())))
    names = [name for name in COLUMNS if name in table.schema.names]
    there = np.array([table[name].is_valid().to_numpy() for name in names]).reshape(len(names), -1)
    seen: dict[bytes, frozenset[str]] = {}
    read = [name for name in (*KEYS, *_FACTS, MARK) if name in table.schema.names]
    found = {}
    for row, valid in zip(table.select(read).to_pylist(), there.T, strict=True):
        which = valid.tobytes()
        if which not in seen:
            seen[which] = frozenset(np.array(names)[valid].tolist())
        keys = {name: row[name] for name in KEYS}
        facts = {name: row[name] for name in row if name not in KEYS}
        found[row["step"], row["layer"], row["stage"]] = Record(keys, facts, seen[which])
    return found
