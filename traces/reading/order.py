"""The rows of one part by layer, stage and step."""

from __future__ import annotations

from typing import Any

import numpy as np

from optgeom.traces.reading.keys import Codes, Keys, Places

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Order:
    """Finds the rows of a layer's stage in one part; sorts them once, if they do not lie so.

    Args:
        keys: the part's.
    """

    def __init__(self, keys: Keys):
        self._keys = keys
        self._sorted: Places | None = None
        self._ranges: dict[tuple[int, int], tuple[int, int]] | None = None

    def pairs(self, kept: Mask | None = None) -> set[tuple[int, int]]:
        """The (layer, stage) of the rows, or of some of them.

        Args:
            kept: which, (n,); None: all.
        """
        pair = self._pair()
        there = np.bincount(pair if kept is None else pair[kept])
        return set(self._named(np.flatnonzero(there)))

    def rows(self, layer: int, stage: int) -> Codes:
        """The rows of a layer's stage by step, (k,); those of one step in their order."""
        if self._ranges is None:
            self._ranges = self._sort()
        first, last = self._ranges.get((layer, stage), (0, 0))
        if self._sorted is None:
            return np.arange(first, last)
        return self._sorted[first:last].astype(np.int64)

    def _sort(self) -> dict[tuple[int, int], tuple[int, int]]:
        pair, steps = self._pair(), self._keys["step"].places
        if _is_apart(pair, steps):
            # small integers are sorted in one pass, and rows mostly come by step already
            order = np.argsort(pair.astype(np.min_scalar_type(int(pair.max()))), kind="stable")
            if _is_apart(pair[order], steps[order]):
                order = np.lexsort((steps, pair))
            pair = pair[order]
            self._sorted = order.astype(np.min_scalar_type(len(order)))
        starts = np.flatnonzero(np.append(True, pair[1:] != pair[:-1])[: len(pair)])
        ranges = zip(starts.tolist(), [*starts[1:].tolist(), len(pair)], strict=False)
        return dict(zip(self._named(pair[starts]), ranges, strict=True))

    def _pair(self) -> Places:
        layers, stages = self._keys["layer"], self._keys["stage"]
        made: Places = layers.places.astype(np.int32) * np.int32(len(stages.values))
        return made + stages.places

    def _named(self, pairs: Places) -> list[tuple[int, int]]:
        layers, stages = self._keys["layer"].values, self._keys["stage"].values
        layer, stage = np.divmod(pairs, max(len(stages), 1))
        return list(zip(layers[layer].tolist(), stages[stage].tolist(), strict=True))


def _is_apart(pair: Places, steps: Places) -> bool:
    """Whether some pair's rows do not lie together, or not by step."""
    change = pair[1:] != pair[:-1]
    runs = int(change.sum()) + min(len(pair), 1)
    backwards = (steps[1:] < steps[:-1]) & ~change
    return runs != len(np.unique(pair)) or bool(backwards.any())
