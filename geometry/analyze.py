"""A trace with raw matrices to the metrics that were not computed in flight.

Never rewrites a record: what is found goes into derived/analysis, and a value fills only a cell
that the records leave null.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from optgeom.geometry.catalogue import columns
from optgeom.geometry.context import Context
from optgeom.geometry.floor import difference_floor
from optgeom.geometry.measure import measure_norms, measure_spectrum, with_nuclear_norm
from optgeom.geometry.overlaps import overlap
from optgeom.traces.derived import write_derived
from optgeom.traces.errors import NotCaptured
from optgeom.traces.info import LayerInfo
from optgeom.traces.schema import KEYS, STAGES
from optgeom.traces.store import Trace

DERIVED_NAME = "analysis"
ANALYSIS_VERSION = 1
"""Raised when the analysis computes more: rows of a lower version are analyzed again."""

_MARK = "analysis_version"
_STATUSES = {"status": "string", "spectrum_status": "string", "spectrum_method": "string"}
_COLUMNS = {**columns("metrics"), **columns("spectra"), **_STATUSES}
_NO_SPECTRUM = frozenset({"lost", "zero", "non_finite"})
_SECONDS_PER_WRITE = 30.0

_logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Work:
    """One layer at one captured step, and its cells that are still to be analyzed."""

    layer: LayerInfo
    step: int
    stages: tuple[str, ...]
    previous_step: int | None


def analyze(trace: Trace, *, progress: Callable[[int, int], None] | None = None) -> pa.Table:
    """Measure every raw matrix of a trace that has not been measured yet.

    Resumable: results are written every half minute, and cells that are there are skipped.
    Companions of a matrix (gradient, weight, the input of the orthogonalization, the previous raw
    update) are taken where the trace holds them; cosine_previous is exact here, and looks back over
    the distance of the raw matrices. Singular values themselves are not stored: only what is
    made from them.

    Args:
        trace: A local trace; refreshed at the end.
        progress: Called with (done, total) cells after each.

    Returns:
        What this call added: key columns, the metrics that the records left null, and
        analysis_version; no rows where nothing was left to do.

    Raises:
        NotCaptured: if the trace holds no raw matrices.
        DamagedTrace: if one of them cannot be read.
        TraceError: if the trace cannot be written.
    """
    records = _records(trace)
    work = list(_pending(trace, records))
    total = sum(len(item.stages) for item in work)
    if not total and not len(trace.steps(stage=None, table="updates")):
        raise NotCaptured(
            f"{trace.path} holds no raw matrices to analyze: capture them with updates_every"
        )
    parts: list[pa.Table] = []
    rows: list[dict[str, Any]] = []
    done, written = 0, time.monotonic()
    for item in work:
        for row in _analyzed(trace, item, records):
            rows.append(row)
            done += 1
            if progress is not None:
                progress(done, total)
        if time.monotonic() - written > _SECONDS_PER_WRITE:
            parts.append(_write(trace, rows))
            rows, written = [], time.monotonic()
    if rows:
        parts.append(_write(trace, rows))
    trace.refresh()
    if not parts:
        return _table([])
    return pa.concat_tables(parts, promote_options="default").combine_chunks()


def _records(trace: Trace) -> dict[tuple[int, str, str], Record]:
    table = trace.metrics(steps=slice(None))
    names = [
        name for name in (*KEYS, "lr", "source", *_COLUMNS, _MARK) if name in table.schema.names
    ]
    rows = table.select(names).to_pylist()
    return {(row["step"], row["layer"], row["stage"]): row for row in rows}


def _pending(trace: Trace, records: Mapping[tuple[int, str, str], Record]) -> Iterator[_Work]:
    for layer in trace.layers:
        by_stage = {
            stage: set(trace.steps(layer.name, stage, "updates").tolist()) for stage in STAGES
        }
        previous = None
        for step in sorted(set().union(*by_stage.values())):
            stages = tuple(
                stage
                for stage in STAGES
                if step in by_stage[stage]
                and (records.get((step, layer.name, stage), {}).get(_MARK) or 0) < ANALYSIS_VERSION
            )
            if stages:
                yield _Work(layer, step, stages, previous)
            if step in by_stage["update"]:
                previous = step


def _analyzed(
    trace: Trace, work: _Work, records: Mapping[tuple[int, str, str], Record]
) -> Iterator[dict[str, Any]]:
    layer, step = work.layer, work.step

    def raw(stage: str, at: int = step) -> torch.Tensor | None:
        if at not in trace.steps(layer.name, stage, "updates"):
            return None
        return torch.from_numpy(np.array(trace.matrix(at, layer.name, stage)))

    gradient, weight = raw("gradient"), raw("weight")
    polar: NDArray[np.float64] | None = None
    for stage in work.stages:
        matrix = raw(stage)
        if matrix is None:
            continue
        record = records.get((step, layer.name, stage), {})
        context = replace(
            _context(layer, stage, record, weight), gradient=gradient, polar_row_norms=polar
        )
        found: dict[str, Any] = dict(measure_norms(matrix, context).values)
        if _floor_is_unknown(context, record):
            found["spectrum_status"] = "floor_unknown"
        elif _lacks_spectrum(record, context, work):
            spectrum = measure_spectrum(matrix, with_nuclear_norm(context))
            found |= spectrum.values
            if spectrum.polar_row_norms is not None:
                polar = spectrum.polar_row_norms
        if stage == "update" and work.previous_step is not None:
            found |= _exact_cosine(matrix, raw("update", work.previous_step), work)
        yield (
            _keys(trace, work, stage, record)
            | _unrecorded(found, record)
            | {_MARK: ANALYSIS_VERSION}
        )


def _context(layer: LayerInfo, stage: str, record: Record, weight: torch.Tensor | None) -> Context:
    named = getattr(torch, layer.dtype.removeprefix("torch."), None)
    stored = named if isinstance(named, torch.dtype) else torch.float32
    floor = record.get("noise_floor") or 0.0
    if not floor and record.get("source") == "difference" and weight is not None:
        floor = difference_floor(weight.to(stored), record.get("lr") or 1.0)
    return Context(
        stage=stage,
        source=record.get("source"),
        status=record.get("status") or "ok",
        lr=record.get("lr"),
        weight=weight,
        noise_floor=floor,
        operand_dtype=stored,
        lost_update_fraction=record.get("lost_update_fraction"),
    )


def _floor_is_unknown(context: Context, record: Record) -> bool:
    # Rounding raises the condition number of a difference by factors: no floor, no spectrum.
    by_difference = context.source == "difference" and not context.noise_floor
    return by_difference and record.get("spectrum_status") is None


def _lacks_spectrum(record: Record, context: Context, work: _Work) -> bool:
    if record.get("spectrum_status") in _NO_SPECTRUM:
        return False
    if record.get("condition_number") is None:
        return True
    if context.stage == "ns_input":
        return record.get("leverage_cv") is None or "orthogonalized" in work.stages
    if context.stage == "orthogonalized":
        return record.get("sigma_min") is None or record.get("ns_row_error") is None
    return (
        context.stage == "update"
        and context.gradient is not None
        and record.get("descent_efficiency") is None
    )


def _exact_cosine(matrix: torch.Tensor, before: torch.Tensor | None, work: _Work) -> dict[str, Any]:
    if before is None or work.previous_step is None:
        return {}
    cosine = float(overlap(matrix, before).cosine)
    if not np.isfinite(cosine):
        return {}
    return {"cosine_previous": cosine, "steps_since_previous": work.step - work.previous_step}


def _unrecorded(found: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """What the records lack. A cosine and the distance it looks back over stay together."""
    left = {name: found.get(name) for name in _COLUMNS if record.get(name) is None}
    if record.get("cosine_previous") is not None:
        left.pop("steps_since_previous", None)
    return left


def _keys(trace: Trace, work: _Work, stage: str, record: Record) -> dict[str, Any]:
    if record:
        return {name: record[name] for name in KEYS}
    started = [one.attempt for one in trace.info.attempts if one.start_step <= work.step]
    return {
        "run": trace.info.run,
        "attempt": max(started, default=0),
        "step": work.step,
        "optimizer": work.layer.optimizer,
        "layer": work.layer.name,
        "kind": work.layer.kind,
        "block": work.layer.block,
        "stage": stage,
    }


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = {
        name: pa.string() if pa.types.is_dictionary(kind) else kind for name, kind in KEYS.items()
    }
    kinds |= {name: pa.type_for_alias(alias) for name, alias in _COLUMNS.items()}
    kinds[_MARK] = pa.int64()
    arrays = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()}
    kept = {
        name: array
        for name, array in arrays.items()
        if name in KEYS or name == _MARK or array.null_count < len(array)
    }
    return pa.table(kept)


def _write(trace: Trace, rows: list[dict[str, Any]]) -> pa.Table:
    table = _table(rows)
    path = write_derived(trace, DERIVED_NAME, table)
    _logger.debug("%d cells analyzed into %s", len(rows), path)
    return table
