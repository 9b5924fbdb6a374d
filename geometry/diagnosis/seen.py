"""What a rule may ask of a trace: columns, lists and scalars of the captures in question.

Nothing is read before it is asked for, and lists are read at a few captures only: a diagnosis is
made at every capture of a running job, and at every refresh of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.reading.asked import Steps, in_steps
from optgeom.traces.store import Trace

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]

DISTRUSTED = ("unverified", "lost")
"""Statuses of rows that no rule believes."""

SPECTRA = 16
"""Captures at most of which a layer's singular values are read, spread evenly, the last among
them."""

NEURONS = 32
"""The same of a layer's neuron norms."""


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A rule could not look; why, in a few words."""

    why: str


@dataclass(frozen=True, slots=True)
class Column:
    """One numeric column of one stage.

    Attributes:
        steps: (k,) ascending.
        values: (k, L), layers in the model's order; NaN where null, absent or not to be believed.
    """

    steps: Codes
    values: Floats

    def of(self, layer: int) -> tuple[Codes, Floats]:
        """The steps and values of one layer, by place, where there are values."""
        values = self.values[:, layer]
        there = np.isfinite(values)
        return self.steps[there], values[there]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One run, as the rules look at it.

    Attributes:
        trace: The run.
        steps: The captures that are judged, ascending.
    """

    trace: Trace
    steps: Codes
    _made: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace, steps: Steps) -> Seen:
        """Look at some captures of a run, or at all.

        Raises:
            NotCaptured: a named step was not captured.
        """
        there = trace.steps(stage=None)
        return cls(trace, there if steps is None else there[in_steps(there, steps, trace.path)])

    @property
    def info(self) -> RunInfo:
        """What run.json says."""
        return self.trace.info

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers, in the model's order."""
        return self.trace.layers

    def has(self, stage: str) -> bool:
        """Whether the run captured a stage."""
        return stage in self.trace.stages

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What several rules rest on, made for the first that asks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def numbers(self, column: str, stage: str = "update") -> Column:
        """A numeric column, believed rows alone."""
        made: Column = self.once((column, stage), lambda: self._numbers(column, stage))
        return made

    def _numbers(self, column: str, stage: str) -> Column:
        if not self.has(stage):
            return Column(np.zeros(0, np.int64), np.zeros((0, len(self.layers))))
        grid = self.trace.grid(column, stage)
        rows = np.isin(grid.steps, self.steps)
        values = grid.values[np.ix_(rows, self._places(grid.layers))].copy()
        for word in DISTRUSTED:
            values[self.says("status", word, stage)] = np.nan
        values[~np.isfinite(values)] = np.nan
        return Column(grid.steps[rows], values)

    def says(self, column: str, word: str, stage: str = "update") -> Flags:
        """(k, L) where a text column has a word; axes as those of `numbers`."""
        grid = self.trace.words(column, stage)
        rows = np.isin(grid.steps, self.steps)
        codes = grid.codes[np.ix_(rows, self._places(grid.layers))]
        if word not in grid.words:
            return np.zeros(codes.shape, bool)
        found: Flags = codes == grid.words.index(word)
        return found

    def _places(self, names: Iterable[str]) -> NDArray[np.intp]:
        place = {name: at for at, name in enumerate(names)}
        return np.array([place[layer.name] for layer in self.layers], np.intp)

    def spectra(self, layer: str, stage: str = "update") -> tuple[Codes, list[Floats]]:
        """Singular values of a layer, descending, at no more than `SPECTRA` captures."""
        if not self.has(stage):
            return np.zeros(0, np.int64), []
        steps = _spread(self.captured(layer, stage, "spectra"), SPECTRA)
        made: tuple[Codes, list[Floats]] = self.once(
            ("spectra", layer, stage),
            lambda: self.trace.spectra(layer, stage, steps=steps.tolist()),
        )
        return made

    def neurons(self, layer: str, stage: str = "update") -> tuple[Codes, Floats]:
        """Row norms of a layer, (k, m), at no more than `NEURONS` captures."""
        if not self.has(stage):
            return np.zeros(0, np.int64), np.zeros((0, 0))
        steps = _spread(self.captured(layer, stage, "neurons"), NEURONS)
        found, norms = self.once(
            ("neurons", layer, stage),
            lambda: self.trace.neurons(layer, stage, steps=steps.tolist()),
        )
        return found, norms.astype(np.float64)

    def scalars(self, name: str) -> Mapping[int, float]:
        """A scalar by step."""
        table = self.trace.scalars(name)
        pairs = zip(table["step"].to_pylist(), table["value"].to_pylist(), strict=True)
        chosen = set(self.steps.tolist())
        return {step: value for step, value in pairs if step in chosen}

    def captured(self, layer: str, stage: str, table: str) -> Codes:
        """The captures in question that a table has of a layer's stage."""
        there = self.trace.steps(layer, stage, table)
        return there[np.isin(there, self.steps)]


def _spread(steps: Codes, most: int) -> Codes:
    if len(steps) <= most:
        return steps
    places = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(np.intp))
    return steps[places]
