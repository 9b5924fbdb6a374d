"""Where the rows of a cell are: keys as integers, sorted once, looked up by layer and stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from optgeom.traces.parts import Codes, Part, Vocabulary

Mask = np.ndarray[Any, np.dtype[np.bool_]]
_CELL = ("step", "layer", "stage", "attempt", "optimizer")


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


def key_codes(table: pa.Table, vocabulary: Vocabulary) -> dict[str, Codes]:
    """The cell columns of a table as integers.

    Args:
        table: one chunk per column.
        vocabulary: shared by all tables of a trace.
    """
    codes = {}
    for name in _CELL:
        chunks = table.column(name).chunks
        if not chunks:
            codes[name] = np.empty(0, np.int64)
        elif pa.types.is_dictionary(chunks[0].type):
            codes[name] = vocabulary.encode(chunks[0])
        else:
            codes[name] = chunks[0].to_numpy().astype(np.int64, copy=False)
    return codes


class CellIndex:
    """Finds the rows of a table by layer and stage, in the order of their steps.

    Args:
        parts: the table's parts.
        vocabulary: shared by all tables of a trace.
        newest: hides rows of superseded attempts; None: there is one attempt.
    """

    def __init__(self, parts: Sequence[Part], vocabulary: Vocabulary, newest: Newest | None):
        self.parts = tuple(parts)
        coded = [key_codes(part.table, vocabulary) for part in self.parts]
        keys = {name: _join([one[name] for one in coded]) for name in _CELL}
        part = np.repeat(np.arange(len(self.parts)), [one.table.num_rows for one in self.parts])
        row = _join([np.arange(one.table.num_rows) for one in self.parts])
        blocks = _join([_row_starts(one) for one in self.parts])
        order = np.lexsort((row, part, blocks, keys["step"], keys["stage"], keys["layer"]))
        if newest is not None:
            order = order[newest.keeps(keys["step"], keys["attempt"])[order]]
        self.keys = {name: codes[order] for name, codes in keys.items()}
        self.part, self.row = part[order], row[order]
        self._ranges = _ranges(self.keys["layer"], self.keys["stage"])

    @property
    def pairs(self) -> Mapping[tuple[int, int], tuple[int, int]]:
        """(layer, stage) -> first and last-but-one position."""
        return self._ranges

    def positions(self, layer: int, stage: int) -> range:
        """The positions of a layer's stage, steps ascending, row blocks in order."""
        return range(*self._ranges.get((layer, stage), (0, 0)))

    def steps(self, layer: int | None, stage: int | None) -> Codes:
        """The steps of a layer, of a stage, or of both, ascending and once each."""
        found = [
            self.keys["step"][first:last]
            for (one_layer, one_stage), (first, last) in self._ranges.items()
            if layer in (None, one_layer) and stage in (None, one_stage)
        ]
        return np.unique(_join(found))

    def by_step(self, layer: int, stage: int) -> list[tuple[int, range]]:
        """(step, positions) of a layer's stage, ascending; several positions: row blocks."""
        at = self.positions(layer, stage)
        if not at:
            return []
        steps = self.keys["step"][at.start : at.stop]
        starts = np.flatnonzero(np.append(True, steps[1:] != steps[:-1]))
        ends = np.append(starts[1:], len(steps))
        return [
            (int(steps[first]), range(at.start + int(first), at.start + int(last)))
            for first, last in zip(starts, ends, strict=True)
        ]

    def at(self, layer: int, stage: int, step: int) -> range:
        """The positions of one cell."""
        whole = self.positions(layer, stage)
        steps = self.keys["step"][whole.start : whole.stop]
        first, last = np.searchsorted(steps, [step, step + 1])
        return range(whole.start + int(first), whole.start + int(last))


def _row_starts(part: Part) -> Codes:
    if "row_start" not in part.table.schema.names:
        return np.zeros(part.table.num_rows, np.int64)
    starts: Codes = part.column("row_start").to_numpy(zero_copy_only=False).astype(np.int64)
    return starts


def _join(arrays: Sequence[Codes]) -> Codes:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _ranges(layer: Codes, stage: Codes) -> dict[tuple[int, int], tuple[int, int]]:
    if not len(layer):
        return {}
    change = (layer[1:] != layer[:-1]) | (stage[1:] != stage[:-1])
    starts = np.flatnonzero(np.append(True, change))
    ends = np.append(starts[1:], len(layer))
    return {
        (int(layer[first]), int(stage[first])): (int(first), int(last))
        for first, last in zip(starts, ends, strict=True)
    }
