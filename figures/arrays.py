"""Types of arrays, and what is asked of arrays with holes: NaN is where there is no number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NO_FLOATS: Floats = np.empty(0)
NO_INTS: Ints = np.empty(0, np.int64)
NO_FLAGS: Flags = np.empty(0, bool)


def extent(*blocks: npt.NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the smallest and the largest finite value; None where there is none.

    >>> extent(np.array([2.0, np.nan]), np.array([5.0, np.inf]))
    (2.0, 5.0)
    """
    finite = [block[np.isfinite(block)] for block in blocks]
    some = [block for block in finite if block.size]
    if not some:
        return None
    return float(min(block.min() for block in some)), float(max(block.max() for block in some))


def quartiles(values: Floats) -> tuple[Floats, Floats]:
    """Return the first and third quartile of each row, (k, n) values; NaN where a row has none.

    Linear interpolation, as ``np.nanpercentile``, which loops over rows in Python.

    >>> low, high = quartiles(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]))
    >>> low.tolist(), high.tolist()
    ([1.5, nan], [2.5, nan])
    """
    if not values.size:
        empty = np.full(len(values), np.nan)
        return empty, empty.copy()
    finite = np.where(np.isfinite(values), values, np.nan)
    ordered = np.sort(finite, axis=1)  # NaN goes to the end
    last = np.isfinite(ordered).sum(axis=1) - 1
    rows = np.arange(len(values))
    found = []
    for share in (0.25, 0.75):
        place = np.maximum(last, 0) * share
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(last, 0))
        low, high = ordered[rows, below], ordered[rows, above]
        found.append(low + (place - below) * (high - low))
    return found[0], found[1]


def small_whole(*numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Stack whole numbers along a last axis in the smallest type that plotly sends as bytes.

    >>> small_whole(np.array([1, 2]), np.array([70, 300])).dtype.name
    'uint16'
    """
    stacked = np.stack(numbers, axis=-1)
    top = int(stacked.max(initial=0))
    low = int(stacked.min(initial=0))
    if low >= 0 and top < 2**16:
        return stacked.astype(np.uint16)
    return stacked.astype(np.int32 if top < 2**31 and low >= -(2**31) else np.float64)
