"""Captures of several runs on common axes: which steps and layers each of them has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optgeom.traces.errors import NotCaptured
from optgeom.traces.info import LayerInfo
from optgeom.traces.store import Trace

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Steps = NDArray[np.int64]
Asked = int | Iterable[int] | slice | None

DISTRUSTED = ("unverified", "lost")
"""Statuses of rows that are kept and not to be trusted: no median is taken over them. Of a lost
difference more than a quarter of the entries did not move."""


class Position(NamedTuple):
    """A layer as runs share it: of one name, and of one kind."""

    layer: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a run's grid lies on the common axes."""

    rows: NDArray[np.intp]
    own_rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    own_columns: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cells:
    """One stage of several runs on common axes: steps by layers.

    Attributes:
        traces: The runs by name.
        stage: The stage.
        steps: (k,) ascending, every step asked for that any run captured.
        layers: (L,) of any run, in the models' order.
        present: The runs that captured the stage.
    """

    traces: Mapping[str, Trace]
    stage: str
    steps: Steps
    layers: tuple[Position, ...]
    present: tuple[str, ...]
    _places: Mapping[str, _Places]
    _infos: Mapping[str, Mapping[Position, LayerInfo]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of layer, in the models' order."""
        return tuple(dict.fromkeys(layer.kind for layer in self.layers))

    def columns(self, kind: str) -> NDArray[np.intp]:
        """Where the layers of a kind stand."""
        return np.flatnonzero(np.array([layer.kind == kind for layer in self.layers], bool))

    def captured(self, run: str) -> Steps:
        """The steps asked for that a run captured."""
        return self.steps[self._places[run].rows] if run in self.present else self.steps[:0]

    def has(self, run: str) -> Flags:
        """(L,) whether a run has the layer."""
        found = np.zeros(len(self.layers), bool)
        if run in self.present:
            found[self._places[run].columns] = True
        return found

    def info(self, run: str, column: int) -> LayerInfo:
        """What run.json says of a layer."""
        return self._infos[run][self.layers[column]]

    def numbers(self, run: str, column: str) -> Floats:
        """(k, L) a numeric column of a run; NaN where null, or not there."""
        if run not in self.present:
            return np.full((len(self.steps), len(self.layers)), np.nan)
        found: Floats = self._spread(run, self.traces[run].grid(column, self.stage).values, np.nan)
        return found

    def rows(self, run: str, column: str) -> Flags:
        """(k, L) whether the column's table has a row, null or not."""
        if run not in self.present:
            return np.zeros((len(self.steps), len(self.layers)), bool)
        found: Flags = self._spread(run, self.traces[run].grid(column, self.stage).recorded, False)
        return found

    def says(self, run: str, column: str, word: str) -> Flags:
        """(k, L) where a text column of a run holds a word."""
        if run not in self.present:
            return np.zeros((len(self.steps), len(self.layers)), bool)
        grid = self.traces[run].words(column, self.stage)
        if word not in grid.words:
            return np.zeros((len(self.steps), len(self.layers)), bool)
        found: Flags = self._spread(run, grid.codes == grid.words.index(word), False)
        return found

    def counted(self, run: str, column: str, where: Flags) -> dict[str, int]:
        """How often a run has each word of a text column in some of the cells."""
        if run not in self.present:
            return {}
        grid = self.traces[run].words(column, self.stage)
        codes = self._spread(run, grid.codes, -1)[where]
        counts = np.bincount(codes[codes >= 0], minlength=len(grid.words)).tolist()
        return {word: count for word, count in zip(grid.words, counts, strict=True) if count}

    def trusted(self, run: str, metric: str) -> Floats:
        """(k, L) a metric of a run; NaN where there is none, or none that is to be trusted."""
        values = self.numbers(run, metric)
        for word in DISTRUSTED:
            values[self.says(run, "status", word)] = np.nan
        values[~np.isfinite(values)] = np.nan
        return values

    def _spread(self, run: str, own: Any, blank: Any) -> Any:
        places = self._places[run]
        found = np.full((len(self.steps), len(self.layers)), blank, own.dtype)
        chosen = own[np.ix_(places.own_rows, places.own_columns)]
        found[np.ix_(places.rows, places.columns)] = chosen
        return found


def cells(traces: Mapping[str, Trace], stage: str, steps: Asked) -> Cells:
    """Put runs on common axes.

    Args:
        traces: The runs by name.
        stage: The stage.
        steps: One step or several that a run must have; a range or slice takes what lies in it.

    Raises:
        NotCaptured: No run has the stage, a named step, or any step in a range.
    """
    axes = {
        run: trace.words("status", stage) for run, trace in traces.items() if stage in trace.stages
    }
    if not axes:
        there = "; ".join(f"{run} has {', '.join(one.stages)}" for run, one in traces.items())
        raise NotCaptured(f"no run captured the stage {stage!r}: {there or 'there is no run'}")
    every = np.unique(np.concatenate([one.steps for one in axes.values()]))
    chosen = _chosen(every, steps, stage)
    infos = {
        run: {Position(layer.name, layer.kind): layer for layer in trace.layers}
        for run, trace in traces.items()
    }
    layers = tuple(dict.fromkeys(one for known in infos.values() for one in known))
    places = {}
    for run, grid in axes.items():
        column_of = {name: place for place, name in enumerate(grid.layers)}
        columns = [place for place, one in enumerate(layers) if one in infos[run]]
        _, rows, own_rows = np.intersect1d(chosen, grid.steps, return_indices=True)
        own_columns = [column_of[layers[place].layer] for place in columns]
        places[run] = _Places(
            rows, own_rows, np.array(columns, np.intp), np.array(own_columns, np.intp)
        )
    return Cells(traces, stage, chosen, layers, tuple(axes), places, infos)


def _chosen(there: Steps, steps: Asked, stage: str) -> Steps:
    if steps is None:
        return there
    if isinstance(steps, slice):
        low = -np.inf if steps.start is None else steps.start
        high = np.inf if steps.stop is None else steps.stop
        chosen = there[(there >= low) & (there < high)][:: steps.step]
    elif isinstance(steps, range):
        chosen = there[np.isin(there, np.arange(steps.start, steps.stop, steps.step))]
    else:
        named = [steps] if isinstance(steps, int | np.integer) else list(steps)
        chosen = np.unique(np.array(named, np.int64))
        missing = np.setdiff1d(chosen, there)
        if len(missing):
            raise NotCaptured(f"no run captured {stage} at step {missing[0]}: {span(there)}")
    if not len(chosen):
        raise NotCaptured(f"no run captured {stage} in the steps asked for: {span(there)}")
    return chosen


def span(steps: Steps) -> str:
    """Captured steps in words: "41 captures, steps 0 to 400".

    >>> span(np.array([0, 10, 20])), span(np.array([1500]))
    ('3 captures, steps 0 to 20', '1 capture, step 1,500')
    """
    if not len(steps):
        return "no capture"
    if len(steps) == 1:
        return f"1 capture, step {steps[0]:,}"
    return f"{len(steps):,} captures, steps {steps[0]:,} to {steps[-1]:,}"
