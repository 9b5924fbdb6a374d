"""How evenly matrices spread over their rows, from the row norms alone.

Every function takes the norms of many matrices with equally many rows, (k, m), and returns (k,)
float64: NaN where a metric is not defined, and everywhere in a row whose norms are all zero or not
all finite.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

DORMANT_BELOW = 0.1
"""A row with less than this share of the mean norm is dormant."""

_TOP = 0.01

Array = NDArray[np.float64]


def neuron_balance(norms: ArrayLike) -> dict[str, Array]:
    """Every balance metric of the catalogue that the row norms decide.

    Args:
        norms: (k, m) row norms, non-negative.

    Returns:
        (k,) by metric name.
    """
    relative = np.sort(_relative(norms), axis=-1)
    count = relative.shape[-1]
    energy = relative**2
    # The subtraction keeps 0.01 * 200 from being rounded up to 3 rows.
    top = max(1, math.ceil(_TOP * count - 1e-9))
    ranks = 2.0 * np.arange(1, count + 1) - count - 1.0
    dormant = (relative < DORMANT_BELOW).mean(-1)
    return {
        "neuron_norm_cv": relative.std(-1),
        "neuron_norm_max_min": _ratio(relative[:, -1], relative[:, 0]),
        "neuron_norm_p99_median": _ratio(_percentile(relative, 0.99), _percentile(relative, 0.5)),
        # Not by BLAS, which gathers threads for so much.
        "neuron_norm_gini": np.einsum("ki,i->k", relative, ranks) / (count * count),
        "neuron_top1pct_share": energy[:, -top:].sum(-1) / energy.sum(-1),
        "neuron_dormant_fraction": np.where(np.isnan(relative[:, 0]), np.nan, dormant),
    }


def column_balance(norms: ArrayLike) -> dict[str, Array]:
    """The balance metrics of the column norms, (k, n): (k,) by metric name."""
    relative = _relative(norms)
    return {
        "column_norm_cv": relative.std(-1),
        "column_norm_max_min": _ratio(relative.max(-1), relative.min(-1)),
    }


def coefficient_of_variation(norms: ArrayLike) -> float | None:
    """Population standard deviation over mean of one matrix's norms, (m,); None where undefined."""
    found = float(_relative(np.atleast_2d(np.asarray(norms, dtype=np.float64))).std(-1)[0])
    return found if math.isfinite(found) else None


def _relative(norms: ArrayLike) -> Array:
    """Norms over their mean, NaN throughout a row where that is not defined."""
    values = np.asarray(norms, dtype=np.float64)
    top = values.max(-1, keepdims=True)
    defined = np.isfinite(top) & (top > 0.0)
    # First by the largest: the mean of norms near float64's ends would leave its range.
    values = values / np.where(defined, top, np.nan)
    relative: Array = values / values.mean(-1, keepdims=True)
    return relative


def _ratio(high: Array, low: Array) -> Array:
    with np.errstate(over="ignore"):
        ratio = high / np.where(low > 0.0, low, np.nan)
    found: Array = np.where(np.isfinite(ratio), ratio, np.nan)
    return found


def _percentile(ordered: Array, share: float) -> Array:
    """Percentile of ascending rows, by linear interpolation."""
    place = share * (ordered.shape[-1] - 1)
    low = int(place)
    high = min(low + 1, ordered.shape[-1] - 1)
    found: Array = ordered[:, low] + (place - low) * (ordered[:, high] - ordered[:, low])
    return found
