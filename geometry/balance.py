"""How evenly a matrix spreads over its rows, from the row norms alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

DORMANT_BELOW = 0.1
"""A row with less than this share of the mean norm is dormant."""


def coefficient_of_variation(norms: ArrayLike) -> float | None:
    """Population standard deviation over mean.

    Args:
        norms: (m,) non-negative.

    Returns:
        The ratio, or None where all norms are zero or one is not finite.
    """
    relative = _relative(norms)
    return None if relative is None else float(relative.std())


def max_min(norms: ArrayLike) -> float | None:
    """Largest norm over smallest; None where one is zero or not finite."""
    relative = _relative(norms)
    return None if relative is None else _ratio(relative.max(), relative.min())


def p99_median(norms: ArrayLike) -> float | None:
    """99th percentile over median, both by linear interpolation; None where the median is 0."""
    relative = _relative(norms)
    if relative is None:
        return None
    high, middle = np.percentile(relative, [99.0, 50.0])
    return _ratio(float(high), float(middle))


def gini(norms: ArrayLike) -> float | None:
    """Gini coefficient: mean absolute difference of two rows over twice the mean.

    Args:
        norms: (m,) non-negative.

    Returns:
        0 when all are equal, (m - 1)/m when one row holds all; None for zero or non-finite norms.
    """
    relative = _relative(norms)
    if relative is None:
        return None
    count = relative.size
    ranks = 2.0 * np.arange(1, count + 1) - count - 1.0
    return float((ranks * np.sort(relative)).sum() / (count * count))


def top_share(norms: ArrayLike, fraction: float = 0.01) -> float | None:
    """Share of the energy in the largest rows.

    Args:
        norms: (m,) non-negative.
        fraction: Which share of the rows, rounded up.

    Returns:
        Share of sum(rho^2) in the ceil(fraction m) largest rows; None for zero or non-finite norms.
    """
    relative = _relative(norms)
    if relative is None:
        return None
    energy = np.sort(relative**2)
    # The subtraction keeps 0.01 * 200 from being rounded up to 3 rows.
    count = max(1, math.ceil(fraction * energy.size - 1e-9))
    return float(energy[-count:].sum() / energy.sum())


def dormant_fraction(norms: ArrayLike, below: float = DORMANT_BELOW) -> float | None:
    """Share of rows with less than `below` of the mean norm; None for zero or non-finite norms."""
    relative = _relative(norms)
    return None if relative is None else float((relative < below).mean())


def neuron_balance(norms: ArrayLike) -> dict[str, float | None]:
    """Every balance metric of the catalogue that the row norms decide.

    Args:
        norms: (m,) row norms.

    Returns:
        Value by metric name.
    """
    return {
        "neuron_norm_cv": coefficient_of_variation(norms),
        "neuron_norm_max_min": max_min(norms),
        "neuron_norm_p99_median": p99_median(norms),
        "neuron_norm_gini": gini(norms),
        "neuron_top1pct_share": top_share(norms),
        "neuron_dormant_fraction": dormant_fraction(norms),
    }


def column_balance(norms: ArrayLike) -> dict[str, float | None]:
    """The balance metrics of the column norms, (n,), by metric name."""
    return {
        "column_norm_cv": coefficient_of_variation(norms),
        "column_norm_max_min": max_min(norms),
    }


def _relative(norms: ArrayLike) -> NDArray[np.float64] | None:
    values = np.asarray(norms, dtype=np.float64).reshape(-1)
    top = values.max(initial=0.0)
    if not np.isfinite(top) or top <= 0.0:
        return None
    # First by the largest: the mean of norms near float64's ends would leave its range.
    values = values / top
    relative: NDArray[np.float64] = values / values.mean()
    return relative


def _ratio(high: float, low: float) -> float | None:
    if low <= 0.0:
        return None
    ratio = float(high) / float(low)
    return ratio if math.isfinite(ratio) else None
