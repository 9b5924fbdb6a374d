"""Values of a metric at a step, or at the nearest earlier capture: of one layer, or of all.

A captured step without a number is that step's answer: its status says why. A cell that was not
asked for one (its spectrum was not due, or another layer's turn had come) is no capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optgeom.figures.arrays import Flags, Floats, Ints
from optgeom.figures.statuses import Statuses, layer_places, statuses
from optgeom.geometry.catalogue import metric_named

if TYPE_CHECKING:
    from optgeom.traces.store import Trace


class Cells(NamedTuple):
    """One metric of one stage over all captured steps.

    Attributes:
        steps: (k,) ascending.
        layers: the columns.
        values: (k, L), NaN where there is no number.
        captured: (k, L): whether the cell answers for its step: it holds a number, or should.
        bounds: (k, L): whether the number is only a lower bound.
        said: the statuses.
    """

    steps: Ints
    layers: tuple[str, ...]
    values: Floats
    captured: Flags
    bounds: Flags
    said: Statuses


class LayerValues(NamedTuple):
    """One metric of several layers at a step or each one's nearest earlier capture.

    Attributes:
        layers: the layers.
        values: a number each, NaN where there is none.
        steps: the captured step that each is of, -1 where there was none yet.
        bounds: whether it is only a lower bound.
        statuses: ``ok``, or why there is no number, or why not to trust it; empty where there
            was no capture.
    """

    layers: tuple[str, ...]
    values: Floats
    steps: Ints
    bounds: Flags
    statuses: tuple[str, ...]


class CellValue(NamedTuple):
    """One metric of one layer: the number or None, its captured step, bound or not, status."""

    value: float | None
    step: int
    is_bound: bool
    status: str


def cells(trace: Trace, metric: str, *, stage: str, layers: Sequence[str] | None = None) -> Cells:
    """Return one metric over all captured steps.

    Args:
        trace: the run.
        metric: a column of the catalogue.
        stage: the stage.
        layers: some of the run's layers; None for all that were recorded.

    Raises:
        OptgeomError: if the catalogue has no such metric.
    """
    entry = metric_named(metric)
    grid = trace.grid(metric, stage)
    chosen = grid.layers if layers is None else tuple(layers)
    columns = slice(None) if layers is None else layer_places(grid.layers, chosen)
    values = grid.values[:, columns]
    said = statuses(trace, stage=stage, of=entry.table, layers=layers)
    due = said.explained if entry.by_turns else said.captured
    bounds = np.zeros(values.shape, bool)
    if metric == "condition_number":
        floors = trace.words("spectrum_status", stage)
        if "at_floor" in floors.words:
            at_floor = floors.codes[:, columns] == floors.words.index("at_floor")
            bounds = at_floor & np.isfinite(values)
    return Cells(grid.steps, chosen, values, np.isfinite(values) | due, bounds, said)


def values_at(
    trace: Trace,
    metric: str,
    *,
    stage: str,
    step: int | None = None,
    layers: Sequence[str] | None = None,
) -> LayerValues:
    """Return one metric of every layer at a step, or at its nearest earlier capture.

    Args:
        trace: the run.
        metric: a column of the catalogue.
        stage: the stage; one that was not captured has no captures.
        step: the step looked at; None for the last.
        layers: some of the run's layers; None for all that were recorded.

    Raises:
        OptgeomError: if the catalogue has no such metric.
    """
    return newest(cells(trace, metric, stage=stage, layers=layers), step)


def newest(of: Cells, step: int | None) -> LayerValues:
    """Return each layer's newest captured cell at or before a step; None for the last step."""
    stop = len(of.steps) if step is None else int(np.searchsorted(of.steps, step, side="right"))
    count = len(of.layers)
    if not stop:
        none = np.full(count, -1)
        return LayerValues(
            of.layers, np.full(count, np.nan), none, np.zeros(count, bool), ("",) * count
        )
    before = of.captured[:stop]
    there: Flags = np.any(before, axis=0)
    # The first True from the end; without one, argmax is 0 and `there` is False.
    rows = stop - 1 - before[::-1].argmax(axis=0)
    columns = np.arange(count)
    values = np.where(there, of.values[rows, columns], np.nan)
    told = [of.said.at(int(row), column) or "ok" for column, row in enumerate(rows.tolist())]
    known, finite = there.tolist(), np.isfinite(values).tolist()
    return LayerValues(
        of.layers,
        values,
        np.where(there, of.steps[rows], -1),
        there & of.bounds[rows, columns],
        tuple(
            "" if not captured else "undefined" if status == "ok" and not number else status
            for captured, status, number in zip(known, told, finite, strict=True)
        ),
    )


def value_at(
    trace: Trace, layer: str, metric: str, *, stage: str, step: int | None = None
) -> CellValue | None:
    """Return one metric of one layer at a step, or at the nearest earlier capture.

    Args:
        trace: the run.
        layer: a layer's name.
        metric: a column of the catalogue.
        stage: the stage.
        step: the step looked at; None for the last.

    Returns:
        None where nothing was captured at or before the step.

    Raises:
        OptgeomError: if the catalogue has no such metric.
    """
    if layer not in trace.grid(metric, stage).layers:
        return None
    found = values_at(trace, metric, stage=stage, step=step, layers=[layer])
    if found.steps[0] < 0:
        return None
    value = float(found.values[0])
    return CellValue(
        value if np.isfinite(value) else None,
        int(found.steps[0]),
        bool(found.bounds[0]),
        found.statuses[0],
    )
