"""Fewer points of a curve, the same picture: what stands out is kept, gaps stay gaps."""

from __future__ import annotations

import numpy as np

from optgeom.figures.arrays import NO_INTS, Flags, Floats, Ints

MOST = 1200
SORTED = 600
# The share of a sorted curve at either end that holds its dormant and dominant neurons.
TAIL = 0.01


def buckets(count: int, most: int) -> Ints:
    """Return where buckets of nearly equal size begin, and the end: at most ``most`` of them."""
    return np.unique(np.linspace(0, count, min(count, most) + 1).round().astype(np.int64))


def thinned(values: Floats, *, flags: Flags | None = None, most: int = MOST) -> Ints:
    """Return which points of a curve to draw.

    Each bucket keeps its first, smallest, largest and last finite point, and its first flagged
    one. Stretches without a number keep their first point and both neighbours, so that the line
    breaks where it broke; of very many stretches the longest are kept.

    Args:
        values: (n,), NaN or infinite where there is no number.
        flags: points of a kind of their own, such as lower bounds.
        most: points at most, beside gaps and flags; up to here every point is kept.

    >>> thinned(np.array([0.0, 1, 9, 2, 3, -5, 3, 3]), most=4).tolist()
    [0, 2, 5, 7]
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    places, real = _places(count, max(1, most // 4))
    finite = np.isfinite(values)
    usable = finite[places] & real
    some = usable.any(axis=1)
    block, rows = values[places], np.arange(len(places))
    last = usable.shape[1] - 1 - usable[:, ::-1].argmax(axis=1)
    winners = (
        usable.argmax(axis=1),
        np.where(usable, block, np.inf).argmin(axis=1),
        np.where(usable, block, -np.inf).argmax(axis=1),
        last,
    )
    kept = [places[rows, winner][some] for winner in winners]
    kept += _gap_borders(finite, len(places))
    if flags is not None:
        flagged = flags[places] & real
        kept.append(places[rows, flagged.argmax(axis=1)][flagged.any(axis=1)])
    return np.unique(np.concatenate(kept))


def thinned_band(
    x: Ints, low: Floats, high: Floats, *, most: int = MOST // 2
) -> tuple[Ints, Floats, Floats]:
    """Return a band of fewer points that still covers every point of it.

    Args:
        x: (n,) where the band is known.
        low: its lower edge, finite.
        high: its upper edge, finite.
        most: points at most.

    Returns:
        x, the smallest low and the largest high of each bucket, at its first and last x.
    """
    count = len(x)
    if count <= most:
        return x, low, high
    edges = buckets(count, max(1, most // 2))
    starts, stops = edges[:-1], edges[1:]
    ends = np.stack([x[starts], x[stops - 1]], axis=1).ravel()
    lows = np.repeat(np.minimum.reduceat(low, starts), 2)
    highs = np.repeat(np.maximum.reduceat(high, starts), 2)
    return ends, lows, highs


def sorted_places(count: int, *, most: int = SORTED) -> Ints:
    """Return which points of a sorted curve to draw: both ends exactly, and densely near them.

    Args:
        count: points of the curve.
        most: points at most.

    >>> sorted_places(5).tolist(), len(sorted_places(8192)) <= SORTED
    ([0, 1, 2, 3, 4], True)
    """
    if count <= most:
        return np.arange(count)
    tail = max(2, round(TAIL * count))
    dense = min(tail, most // 4)
    left = np.linspace(0, tail - 1, dense).round()
    middle = np.linspace(tail, count - tail - 1, most - 2 * dense).round()
    return np.unique(np.concatenate([left, middle, count - 1 - left])).astype(np.int64)


def percent(count: int) -> Floats:
    """Return where the entries of a sorted curve stand, from 0 to 100; one alone in the middle."""
    return np.linspace(0, 100, count) if count > 1 else np.full(count, 50.0)


def _places(count: int, most: int) -> tuple[Ints, Flags]:
    """Return a row of places per bucket, and which of them are not just filling it up."""
    edges = buckets(count, most)
    sizes = np.diff(edges)
    offsets = np.arange(sizes.max())
    real = offsets < sizes[:, None]
    return np.minimum(edges[:-1, None] + offsets, count - 1), real


def _gap_borders(finite: Flags, most: int) -> list[Ints]:
    """Return the first point, the point before and the point after of the longest gaps."""
    change = np.diff(np.concatenate([[1], finite.astype(np.int8), [1]]))
    starts, stops = np.flatnonzero(change < 0), np.flatnonzero(change > 0)
    if not len(starts):
        return [NO_INTS]
    longest = np.argsort(starts - stops, kind="stable")[:most]
    starts, stops = starts[longest], stops[longest]
    return [starts, starts[starts > 0] - 1, stops[stops < len(finite)]]
