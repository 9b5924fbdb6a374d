"""From a trace to a few lines over steps: the middle and the ends of each kind of layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from optgeom.geometry.catalogue import metric_named
from optgeom.geometry.comparison.cells import DISTRUSTED
from optgeom.hooks.errors import WatchError
from optgeom.hooks.filters import Pattern, listed
from optgeom.traces.errors import OptgeomError
from optgeom.traces.schema import STAGES
from optgeom.traces.store import Trace

Steps = np.ndarray[Any, np.dtype[np.int64]]
Values = np.ndarray[Any, np.dtype[np.float64]]

METRICS = ("neuron_norm_cv", "condition_number", "stable_rank", "update_to_weight")
"""What is sent unless something else is asked for: balance, conditioning, rank, size."""


class Point(NamedTuple):
    """One number of one line."""

    step: int
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Line:
    """One name over steps.

    Attributes:
        name: such as "optgeom/mlp.up/neuron_norm_cv".
        steps: (k,) ascending.
        values: (k,) finite.
        counts: (k,) of how many layers each value is.
    """

    name: str
    steps: Steps
    values: Values
    counts: Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Which numbers of a trace are sent.

    Attributes:
        metrics: columns of the catalogue, docs/metrics.md.
        stages: which matrices of a step; what is of another stage than "update" has the stage in
            its name.
        layers: layers that are sent one by one besides, by kinds, families or regular
            expressions, as in `watch(layers=...)`.
        scalars: of what `rec.log` wrote.
        prefix: what every name begins with.

    Raises:
        WatchError: a metric, stage or expression that there is not.
    """

    metrics: tuple[str, ...] = METRICS
    stages: tuple[str, ...] = ("update",)
    layers: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ("loss",)
    prefix: str = "optgeom"

    def __post_init__(self) -> None:
        for field in ("metrics", "stages", "layers", "scalars"):
            given = getattr(self, field)
            if isinstance(given, str):
                raise WatchError(f"Series({field}=...) takes a tuple of names, got {given!r}")
            object.__setattr__(self, field, tuple(given))
        for name in self.metrics:
            try:
                metric_named(name)
            except OptgeomError as error:
                raise WatchError(str(error)) from error
        for stage in self.stages:
            if stage not in STAGES:
                raise WatchError(f"Series(stages=...) are {listed(STAGES, stage)}, got {stage!r}")
        for text in self.layers:
            Pattern.of(text, "Series(layers=...)")


def lines_of(trace: Trace, series: Series) -> Iterator[Line]:
    """The lines of a trace.

    A value is over the layers of a kind that were measured at its step: their median, and with
    `_min` and `_max` the ends, where there are several. Cells that `status` distrusts and values
    that are not finite are left out; a step without any is not in the line.

    Args:
        trace: read as far as it is now.
        series: which.
    """
    yield from _scalars(trace, series)
    kinds = {layer.name: layer.kind for layer in trace.layers}
    patterns = [Pattern.of(text, "layers") for text in series.layers]
    for stage in series.stages:
        if stage not in trace.stages:
            continue
        inner = "" if stage == "update" else f"{stage}/"
        for metric in series.metrics:
            grid = trace.grid(metric, stage)
            values = _trusted(trace, grid.values, stage)
            of = [kinds.get(name) for name in grid.layers]
            for kind in dict.fromkeys(one for one in of if one is not None):
                name = f"{series.prefix}/{kind}/{inner}{metric}"
                columns = [place for place, one in enumerate(of) if one == kind]
                yield from _of_kind(name, grid.steps, values[:, columns])
            for place, (layer, own) in enumerate(zip(grid.layers, of, strict=True)):
                if any(one.means(layer, [own or "other"]) for one in patterns):
                    name = f"{series.prefix}/layers/{layer}/{inner}{metric}"
                    yield _line(name, grid.steps, values[:, place : place + 1], np.median)


def points_of(lines: Iterator[Line] | list[Line]) -> list[Point]:
    """The numbers of lines, by step and then by name."""
    found = [
        Point(step, line.name, value)
        for line in lines
        for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True)
    ]
    return sorted(found)


def _scalars(trace: Trace, series: Series) -> Iterator[Line]:
    for name in series.scalars:
        table = trace.scalars(name)
        steps, values = (table.column(one).to_numpy() for one in ("step", "value"))
        kept = np.isfinite(values)
        ones = np.ones(int(kept.sum()), np.int64)
        yield Line(f"{series.prefix}/{name}", steps[kept], values[kept], ones)


def _trusted(trace: Trace, values: Values, stage: str) -> Values:
    found = np.where(np.isfinite(values), values, np.nan)
    status = trace.words("status", stage)
    for word in DISTRUSTED:
        if word in status.words:
            found[status.codes == status.words.index(word)] = np.nan
    return found


def _of_kind(name: str, steps: Steps, values: Values) -> Iterator[Line]:
    yield _line(name, steps, values, np.median)
    if values.shape[1] > 1:
        yield _line(f"{name}_min", steps, values, np.min)
        yield _line(f"{name}_max", steps, values, np.max)


def _line(name: str, steps: Steps, values: Values, reduce: Any) -> Line:
    counts = np.isfinite(values).sum(1)
    there = counts > 0
    reduced = [float(reduce(row[np.isfinite(row)])) for row in values[there]]
    return Line(name, steps[there], np.array(reduced, np.float64), counts[there])
