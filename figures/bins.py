"""Rows to bins: a heatmap shows at most 256 rows, and never hides the extreme one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optgeom.figures.arrays import Ints

MOST = 256


class Bins(NamedTuple):
    """Which rows share a bin.

    Attributes:
        edges: (b + 1,) where bins begin, and the end.
        members: (b, n) the rows of each bin; a short bin repeats its last one.
    """

    edges: Ints
    members: Ints


def bins_of(rows: int, *, most: int = MOST) -> Bins:
    """Deal rows out to bins of nearly equal size, in their order.

    Args:
        rows: how many there are.
        most: bins at most; with as many rows or fewer each has its own.

    >>> bins_of(5, most=2).members.tolist()
    [[0, 1, 1], [2, 3, 4]]
    """
    edges = np.linspace(0, rows, min(rows, most) + 1).round().astype(np.int64)
    widest = int(np.diff(edges).max(initial=0))
    members = edges[:-1, None] + np.arange(widest)
    return Bins(edges, np.minimum(members, edges[1:, None] - 1))


def winners(scores: npt.NDArray[Any], bins: Bins) -> tuple[Ints, npt.NDArray[Any]]:
    """Return the row that each bin shows, and its score: the highest; NaN wins over nothing.

    A mean would hide the one dormant neuron that the picture is looked at for.

    Args:
        scores: (k, rows), for instance how far each is from 1 at k captures.
        bins: the rows' bins.

    Returns:
        (k, b) rows, (k, b) scores.

    >>> winners(np.array([[1.0, 4.0, 2.0, np.nan]]), bins_of(4, most=2))[0].tolist()
    [[1, 2]]
    """
    block = scores[:, bins.members]
    best = np.where(np.isnan(block), -np.inf, block).argmax(axis=2)[:, :, None]
    rows = np.broadcast_to(bins.members, block.shape)
    shown = np.take_along_axis(block, best, axis=2)[:, :, 0]
    return np.take_along_axis(rows, best, axis=2)[:, :, 0], shown
