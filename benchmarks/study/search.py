"""Which learning rates are tried: a bracket by factors of two, then the steps between."""

from __future__ import annotations

import math
from collections.abc import Mapping

TRIALS = 5
"""Of every rule, and more only where the best still lies at the edge of its grid."""


def next_rates(first: float, tried: Mapping[float, float]) -> tuple[float, ...]:
    """The learning rates to try next, all of them at once.

    Half, once and twice the first; then twice as far wherever the best is at the edge; once it is
    inside, what is left of ``TRIALS`` goes half a step to each side of the best, the side with the
    lower neighbour first.

    Args:
        first: The middle of the first grid.
        tried: From learning rate to loss; what did not end in a number counts as worst.

    Returns:
        Nothing once the best lies inside and ``TRIALS`` are made.

    >>> next_rates(0.01, {})
    (0.005, 0.01, 0.02)
    >>> next_rates(0.01, {0.005: 3.0, 0.01: 2.0, 0.02: 1.0})
    (0.04,)
    >>> next_rates(0.01, {0.005: 3.0, 0.01: 1.0, 0.02: 2.0})
    (0.01414, 0.007071)
    """
    grid = [rate for rate in (first / 2, first, 2 * first) if rate not in tried]
    if grid:
        return tuple(grid)
    rates = sorted(tried)
    best = rates.index(best_rate(tried))
    if best == 0:
        return (rates[0] / 2,)
    if best == len(rates) - 1:
        return (rates[-1] * 2,)
    sides = sorted((best + 1, best - 1), key=lambda i: _loss(tried[rates[i]]))
    middles = [_rounded(math.sqrt(rates[best] * rates[side])) for side in sides]
    return tuple(middles[: max(0, TRIALS - len(tried))])


def best_rate(tried: Mapping[float, float]) -> float:
    """The learning rate of the lowest loss; of equal ones the smallest."""
    return min(sorted(tried), key=lambda rate: _loss(tried[rate]))


def is_inside(tried: Mapping[float, float]) -> bool:
    """Whether a higher and a lower learning rate than the best were tried."""
    return min(tried) < best_rate(tried) < max(tried)


def _loss(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
