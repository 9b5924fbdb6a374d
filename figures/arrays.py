"""Types of arrays, and what is asked of arrays with holes: NaN is where there is no number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NO_FLOATS: Floats = np.empty(0)
NO_INTS: Ints = np.empty(0, np.int64)
NO_FLOAT_CELLS: Floats = np.empty((0, 0))
NO_INT_CELLS: Ints = np.empty((0, 0), np.int64)


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


def usual_low(*blocks: npt.NDArray[np.floating]) -> float | None:
    """Return the value that one in twenty is below; None where there is none.

    A logarithmic scale down to the very smallest value is all for that one: the first step of
    NorMuon has a CV of 1e-7, every later one of 0.1.
    """
    finite = [block[np.isfinite(block)].ravel() for block in blocks]
    every = np.concatenate(finite) if finite else NO_FLOATS
    return float(np.quantile(every, 0.05)) if every.size else None


def quantiles(values: Floats, *shares: float) -> list[Floats]:
    """Return quantiles of each row, (k, n) values to (k,) each; NaN where a row has no number.

    Linear interpolation, as ``np.nanquantile``, which loops over rows in Python.

    >>> [one.tolist() for one in quantiles(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]), 0.5, 1)]
    [[2.0, nan], [3.0, nan]]
    """
    if not values.size:
        return [np.full(len(values), np.nan) for _ in shares]
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=1)  # NaN goes last
    last = np.maximum(np.isfinite(ordered).sum(axis=1) - 1, 0)
    rows = np.arange(len(values))
    found = []
    for share in shares:
        below = np.floor(last * share).astype(np.int64)
        low, high = ordered[rows, below], ordered[rows, np.minimum(below + 1, last)]
        found.append(low + (last * share - below) * (high - low))
    return found


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
