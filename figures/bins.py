"""Rows to bins: a heatmap shows at most 256 rows, and never hides the extreme one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

MOST = 256


def farthest(
    values: npt.NDArray[np.float64], *, most: int = MOST
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Bin rows so that each bin shows, per column, its entry farthest from zero.

    A mean would hide the one dormant neuron that the picture is looked at for.

    Args:
        values: (m, k), for instance log2(norm / mean).
        most: bins at most; with m <= most the rows are returned as they are.

    Returns:
        (b, k) binned values, and (b, k) which row each came from.

    >>> farthest(np.array([[0.1], [-2.0], [0.3], [0.2]]), most=2)[0].ravel().tolist()
    [-2.0, 0.3]
    """
    rows, columns = values.shape
    if rows <= most:
        return values, np.tile(np.arange(rows)[:, None], (1, columns))
    edges = np.linspace(0, rows, most + 1).round().astype(np.int64)
    binned = np.empty((most, columns))
    source = np.empty((most, columns), dtype=np.int64)
    for place, (start, stop) in enumerate(pairwise(edges)):
        block = values[start:stop]
        winner = np.abs(np.nan_to_num(block, nan=0.0)).argmax(axis=0)
        binned[place] = block[winner, np.arange(columns)]
        source[place] = start + winner
    return binned, source
