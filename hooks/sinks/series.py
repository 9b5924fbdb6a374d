"""From a trace to a few lines over steps: the middle and the ends of each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from optgeom.geometry.catalogue import metric_named
from optgeom.geometry.comparison.cells import DISTRUSTED
from optgeom.hooks.errors import WatchError
from optgeom.hooks.filters import Pattern, listed
from optgeom.traces.errors import OptgeomError
from optgeom.traces.reading.grid import Grid
from optgeom.traces.schema import STAGES
from optgeom.traces.store import Trace

Steps = np.ndarray[Any, np.dtype[np.int64]]
Values = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

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
        is_whole: (k,) whether each layer has a row at this step or at a later one.
    """

    name: str
    steps: Steps
    values: Values
    counts: Steps
    is_whole: Flags


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
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise WatchError(f"Series({field}=...) takes a tuple of names, got {given!r}")
            object.__setattr__(self, field, tuple(given))
            for name in getattr(self, field):
                if not isinstance(name, str):
                    raise WatchError(f"Series({field}=...) takes names, got {name!r} among them")
        if not isinstance(self.prefix, str) or not self.prefix:
            raise WatchError(
                f'Series(prefix=...) takes what names begin with, such as "optgeom", got '
                f"{self.prefix!r}"
            )
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


def _all(_: str) -> int:
    return -1


def lines_of(trace: Trace, series: Series, after: Callable[[str], int] = _all) -> Iterator[Line]:
    """The lines of a trace.

    A value is over the layers of a kind that were measured at its step: their median, and with
    `_min` and `_max` the ends, where there are several. Cells that `status` distrusts and values
    that are not finite are left out; a step without any is not in the line.

    Args:
        trace: read as far as it is now.
        series: which.
        after: the step after which a line, by name, is wanted; nothing before it is computed.
    """
    yield from _scalars(trace, series, after)
    kinds = {layer.name: layer.kind for layer in trace.layers}
    patterns = [Pattern.of(text, "layers") for text in series.layers]
    for stage in series.stages:
        if stage not in trace.stages:
            continue
        inner = "" if stage == "update" else f"{stage}/"
        is_trusted = _trusted(trace, stage)
        for metric in series.metrics:
            grid = trace.grid(metric, stage)
            of = [kinds.get(name) for name in grid.layers]
            for kind in dict.fromkeys(one for one in of if one is not None):
                name = f"{series.prefix}/{kind}/{inner}{metric}"
                columns = [place for place, one in enumerate(of) if one == kind]
                yield from _of_layers(name, grid, is_trusted, columns, after(name))
            for place, (layer, own) in enumerate(zip(grid.layers, of, strict=True)):
                if any(one.means(layer, [own or "other"]) for one in patterns):
                    name = f"{series.prefix}/layers/{layer}/{inner}{metric}"
                    yield from _of_layers(name, grid, is_trusted, [place], after(name))


def points_of(lines: Iterator[Line] | list[Line]) -> list[Point]:
    """The numbers of lines, by step and then by name."""
    found = [
        Point(step, line.name, value)
        for line in lines
        for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True)
    ]
    return sorted(found)


def _scalars(trace: Trace, series: Series, after: Callable[[str], int]) -> Iterator[Line]:
    for one in series.scalars:
        name = f"{series.prefix}/{one}"
        table = trace.scalars(one)
        steps, values = (table.column(column).to_numpy() for column in ("step", "value"))
        kept = np.isfinite(values) & (steps > after(name))
        ones = np.ones(int(kept.sum()), np.int64)
        yield Line(name, steps[kept], values[kept], ones, ones.astype(bool))


def _trusted(trace: Trace, stage: str) -> Flags:
    """(k, L), as the grids of the stage."""
    status = trace.words("status", stage)
    codes = [status.words.index(word) for word in DISTRUSTED if word in status.words]
    return np.isin(status.codes, codes, invert=True)


def _of_layers(
    name: str, grid: Grid, is_trusted: Flags, columns: list[int], after: int
) -> Iterator[Line]:
    first = int(np.searchsorted(grid.steps, after, side="right"))
    values = grid.values[first:, columns]
    values = np.where(np.isfinite(values) & is_trusted[first:, columns], values, np.nan)
    ordered: Values = np.sort(values, axis=1)  # what is nan stands last
    counts: Steps = np.isfinite(ordered).sum(1)
    there = counts > 0
    recorded = grid.recorded[first:, columns]
    later: Flags = np.logical_or.accumulate(recorded[::-1])[::-1]
    is_whole = np.logical_and.reduce(later, axis=1)[there]
    ordered, counts = ordered[there], counts[there]
    rows = np.arange(len(counts))
    lowest, highest = ordered[:, 0], ordered[rows, counts - 1]
    median = (ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2
    found = {name: median}
    if len(columns) > 1:
        found |= {f"{name}_min": lowest, f"{name}_max": highest}
    for one, reduced in found.items():
        yield Line(one, grid.steps[first:][there], reduced, counts, is_whole)
