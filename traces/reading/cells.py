"""Where the rows of a cell are: sorted once in each part, brought together when asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from optgeom.traces.reading.keys import CELL, Codes, Keys
from optgeom.traces.reading.part import Part

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest attempt of each step: what a resumed run shows of its cells."""

    steps: Codes
    attempts: Codes

    @classmethod
    def of(cls, steps: Codes, attempts: Codes) -> Self:
        """From the steps and attempts of all cells, in any order."""
        order = np.lexsort((attempts, steps))
        steps, attempts = steps[order], attempts[order]
        last = np.append(steps[1:] != steps[:-1], True)[: len(steps)]
        return cls(steps[last], attempts[last])

    def keeps(self, steps: Codes, attempts: Codes) -> Mask:
        """Which of these rows belong to their step's newest attempt."""
        if not len(self.steps):
            return np.ones(len(steps), bool)
        at = np.minimum(np.searchsorted(self.steps, steps), len(self.steps) - 1)
        kept: Mask = (self.steps[at] != steps) | (self.attempts[at] == attempts)
        return kept


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a layer's stage: by step, those of one step in the order of their writing.

    Attributes:
        steps: (n,) of each row.
        parts: (n,) the number of the part that it is in.
        rows: (n,) its place there.
    """

    steps: Codes
    parts: Codes
    rows: Codes

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, at: slice) -> Rows:
        return Rows(self.steps[at], self.parts[at], self.rows[at])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The (part, row) of each."""
        return iter(zip(self.parts.tolist(), self.rows.tolist(), strict=True))

    def at(self, step: int) -> Rows:
        """Those of one step."""
        first, last = np.searchsorted(self.steps, [step, step + 1]).tolist()
        return self[first:last]

    def by_step(self) -> list[tuple[int, Rows]]:
        """Each step with its rows; several: blocks, or one that was written again."""
        starts = np.flatnonzero(np.diff(self.steps, prepend=-1)).tolist() if len(self) else []
        ends = [*starts[1:], len(self)]
        return [
            (int(self.steps[first]), self[first:last])
            for first, last in zip(starts, ends, strict=False)
        ]


class CellIndex:
    """Finds the rows of a table by layer and stage, in the order of their steps.

    Args:
        parts: the table's parts.
        newest: hides rows of superseded attempts; None: there is one attempt.
    """

    def __init__(self, parts: Sequence[Part], newest: Newest | None):
        self.parts = tuple(parts)
        self._newest = newest
        self.pairs = frozenset(
            pair for part in self.parts for pair in part.order.pairs(self.kept(part))
        )
        self.layers = frozenset(layer for layer, _ in self.pairs)
        self.stages = frozenset(stage for _, stage in self.pairs)

    def rows(self, layer: int, stage: int) -> Rows:
        """The rows of a layer's stage."""
        found = []
        for number, part in enumerate(self.parts):
            within = part.order.rows(layer, stage)
            if len(within):
                steps = part.keys["step"][within]
                found.append((steps, part.keys["attempt"][within], number, within))
        if not found:
            empty = np.empty(0, np.int64)
            return Rows(empty, empty, empty)
        steps = np.concatenate([one for one, *_ in found])
        numbers = np.repeat([one for *_, one, _ in found], [len(one) for one, *_ in found])
        within = np.concatenate([one for *_, one in found])
        # stable: parts come in the order of their writing, and so do a step's rows in each
        order = np.argsort(steps, kind="stable")
        if self._newest is not None:
            attempts = np.concatenate([one for _, one, *_ in found])
            order = order[self._newest.keeps(steps, attempts)[order]]
        return Rows(steps[order], numbers[order].astype(np.int64), within[order])

    def steps(self, layer: int | None, stage: int | None) -> Codes:
        """The steps of a layer, of a stage, or of both, ascending and once each."""
        if layer is not None and stage is not None:
            return np.unique(self.rows(layer, stage).steps)
        found = [np.empty(0, np.int64)]
        for part in self.parts:
            mask = self.kept(part)
            for name, value in (("layer", layer), ("stage", stage)):
                if value is not None:
                    mask = both(mask, part.keys[name].where(value))
            steps = part.keys["step"]
            places = steps.places if mask is None else steps.places[mask]
            found.append(steps.values[np.bincount(places, minlength=len(steps.values)) > 0])
        return np.unique(np.concatenate(found))

    def repeated(self) -> int:
        """How many rows stand for a cell that a row before them stands for."""
        columns = []
        for name in CELL:
            found = [np.empty(0, np.int64)]
            for part in self.parts:
                mask = self.kept(part)
                found.append(part.keys[name][slice(None) if mask is None else mask])
            columns.append(np.concatenate(found))
        order = np.lexsort(columns)
        same = np.ones(max(len(order) - 1, 0), bool)
        for codes in columns:
            same &= codes[order][1:] == codes[order][:-1]
        return int(same.sum())

    def kept(self, part: Part) -> Mask | None:
        """Which rows of a part are of the newest attempt, (n,); None: all."""
        return kept_rows(part.keys, self._newest)


def kept_rows(keys: Keys, newest: Newest | None) -> Mask | None:
    """Which rows are of their step's newest attempt, (n,); None: all."""
    if newest is None or not keys.rows:
        return None
    steps, attempts = keys["step"], keys["attempt"]
    if len(attempts.values) == 1:
        kept = newest.keeps(steps.values, np.repeat(attempts.values, len(steps.values)))
        return None if kept.all() else kept[steps.places]
    mask = newest.keeps(steps[:], attempts[:])
    return None if mask.all() else mask


def both(one: Mask | None, other: Mask | None) -> Mask | None:
    """Rows in both masks; None stands for all rows."""
    if one is None or other is None:
        return one if other is None else other
    return one & other
