"""From raw matrices to rows: the pure function that every engine calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optgeom.geometry.analysis.ahead import ahead
from optgeom.geometry.analysis.loading import Key, Loaded, Read, loaded
from optgeom.geometry.analysis.records import ANALYSIS_VERSION, COLUMNS, MARK, Record
from optgeom.geometry.analysis.units import Unit
from optgeom.geometry.companions import Reach
from optgeom.geometry.context import Context
from optgeom.geometry.finish import Value, finish_norms
from optgeom.geometry.floor import difference_floor
from optgeom.geometry.kernels import LAPACK, TORCH, Kernels
from optgeom.geometry.measure import measure_spectrum, with_nuclear_norm
from optgeom.geometry.overlaps import length
from optgeom.geometry.partial import GRADIENT_STAGES, norms_pass
from optgeom.traces.errors import OptgeomError

Row = dict[str, Any]


@dataclass(slots=True)
class Found:
    """What a unit gave.

    Attributes:
        rows: Keys, what the records lack and analysis_version, of every measured cell.
        failures: Why matrices could not be read, a sentence each; their cells have no row.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measured(
    unit: Unit,
    read: Read,
    *,
    device: str | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Found:
    """Measure a unit: the result depends on its matrices and records alone.

    The next capture is read while this one is measured.

    Args:
        unit: What to measure.
        read: Gives the raw matrices; called from one other thread.
        device: Where torch is to compute, such as "cuda"; None: numpy's LAPACK on this thread.
        stopped: Asked between captures; what is measured by then is returned.

    Returns:
        The rows, and what could not be read.

    Raises:
        OptgeomError: if another version of optgeom made the unit.
    """
    if unit.version != ANALYSIS_VERSION:
        raise OptgeomError(
            f"a unit of analysis {unit.version} has come to a worker of analysis "
            f"{ANALYSIS_VERSION}: install the same version of optgeom on both sides"
        )
    found = Found()
    kernels = LAPACK if device is None else TORCH
    before: dict[Key, float] = {}  # condition numbers of the last capture
    with closing(ahead(loaded(unit, read, found.failures, device))) as captures:
        for capture in captures:
            if stopped():
                break
            now: dict[Key, float] = {}
            found.rows.extend(_measured(capture, kernels, before, now, found.failures))
            before = now
    return found


def _measured(
    capture: Sequence[Loaded],
    kernels: Kernels,
    before: Mapping[Key, float],
    now: dict[Key, float],
    failures: list[str],
) -> list[Row]:
    """The rows of a capture; where a matrix is not as it should be, those of all other layers."""
    try:
        return list(_rows(capture, kernels, before, now))
    except (OptgeomError, RuntimeError) as error:
        if len(capture) > 1:
            return [
                row for one in capture for row in _measured([one], kernels, before, now, failures)
            ]
        task = capture[0].task
        failures.append(f"{task.layer.name} at step {task.step}: {error}")
        return []


def _rows(
    capture: Sequence[Loaded],
    kernels: Kernels,
    before: Mapping[Key, float],
    now: dict[Key, float],
) -> Iterator[Row]:
    """Norms of all cells together, and then the spectra of each layer."""
    contexts = {
        (one.task.layer.name, stage): _context(one, stage)
        for one in capture
        for stage in one.task.needed
    }
    balanced = [
        (one, stage)
        for one in capture
        for stage, record in one.task.pending.items()
        if _lacks_norms(one, stage, record)
    ]
    read = [
        norms_pass(one.matrices[stage], contexts[one.task.layer.name, stage])
        for one, stage in balanced
    ]
    norms = {
        (one.task.layer.name, stage): row.values
        for (one, stage), row in zip(balanced, finish_norms(read), strict=True)
    }
    for one in capture:
        name = one.task.layer.name
        spectra = _spectra(one, contexts, kernels, before, now)
        for stage, record in one.task.pending.items():
            found: Row = {**norms.get((name, stage), {}), **spectra.get(stage, {})}
            if stage == "update":
                found |= _cosine(one)
            left = {column: found.get(column) for column in COLUMNS if column not in record.there}
            if "cosine_previous" in record.there:
                # a cosine and the distance that it looks back over stay together
                left.pop("steps_since_previous", None)
            yield {**record.keys, **left, MARK: ANALYSIS_VERSION}


def _spectra(
    one: Loaded,
    contexts: Mapping[Key, Context],
    kernels: Kernels,
    before: Mapping[Key, float],
    now: dict[Key, float],
) -> dict[str, Row]:
    """The spectra that a layer lacks, by stage, and what one of them gives to another."""
    task, name = one.task, one.task.layer.name
    polar: NDArray[np.float64] | None = None
    nuclear = task.gradient_nuclear_norm
    found: dict[str, Row] = {}
    for stage in task.needed:
        record = task.pending.get(stage)
        if record is not None and _floor_is_unknown(contexts[name, stage], record):
            found[stage] = {"spectrum_status": "floor_unknown"}
            continue
        if not task.lacks_spectrum(stage):
            continue
        context = replace(
            contexts[name, stage],
            polar_row_norms=polar,
            gradient_nuclear_norm=nuclear,
            expected_condition_number=before.get((name, stage), task.expected.get(stage)),
        )
        if task.lacks_descent:
            context = with_nuclear_norm(context, kernels=kernels)
        row = measure_spectrum(one.matrices[stage], context, kernels=kernels)
        condition = row.values["condition_number"]
        if isinstance(condition, float):
            now[name, stage] = condition
        polar = row.polar_row_norms if stage == "ns_input" else polar
        if stage == "gradient":
            nuclear = _number(row.values["nuclear_norm"])
        found[stage] = row.values
    return found


def _context(one: Loaded, stage: str) -> Context:
    record = one.task.pending.get(stage)
    facts: Mapping[str, Any] = {} if record is None else record.facts
    weight = one.matrices.get("weight")
    stored = _dtype(one.task.layer.dtype)
    # what traces of an older version do not say: then the weights' dtype bounds an update's
    operand = _dtype(facts.get("operand_dtype") or (stored if stage == "update" else None))
    floor = 0.0
    if facts.get("source") == "difference":
        floor = facts.get("noise_floor") or 0.0
        if not floor and weight is not None:
            floor = difference_floor(weight.to(stored), facts.get("lr") or 1.0)
    return Context(
        stage=stage,
        source=facts.get("source"),
        status=facts.get("status") or "ok",
        lr=facts.get("lr"),
        weight=weight,
        gradient=one.matrices.get("gradient"),
        noise_floor=floor,
        # raw matrices are read as float32, whatever they were stored as
        operand_dtype=torch.float32 if operand == torch.float64 else operand,
        lost_update_fraction=facts.get("lost_update_fraction"),
    )


def _dtype(name: Any) -> torch.dtype:
    """A dtype by its name; float32, as raw matrices are read, if there is no such."""
    found = getattr(torch, str(name).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _lacks_norms(one: Loaded, stage: str, record: Record) -> bool:
    if not record.is_measurable:
        return False
    return (
        record.lacks("neuron_norm_cv", "column_norm_cv", "frobenius_norm")
        or (
            stage in GRADIENT_STAGES
            and "gradient" in one.matrices
            and record.lacks("cosine_gradient")
        )
        or (
            stage == "update"
            and "weight" in one.matrices
            and record.lacks("update_to_weight", "radial_fraction")
        )
    )


def _floor_is_unknown(context: Context, record: Record) -> bool:
    # Rounding raises the condition number of a difference by factors: no floor, no spectrum.
    by_difference = context.source == "difference" and not context.noise_floor
    return by_difference and record.facts.get("spectrum_status") is None


def _cosine(one: Loaded) -> Row:
    task = one.task
    if one.before is None or task.previous_step is None:
        return {}
    update = one.matrices["update"]
    size = float(length(update))
    cosine = (
        float(Reach.of(update, size * size).along(one.before).length) / size if size else math.nan
    )
    if not math.isfinite(cosine):
        return {}
    return {
        "cosine_previous": min(1.0, max(-1.0, cosine)),
        "steps_since_previous": task.step - task.previous_step,
    }


def _number(value: Value) -> float | None:
    return value if isinstance(value, float) else None
