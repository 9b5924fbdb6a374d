"""How many directions a matrix really uses: ranks and entropies of its spectrum.

Every function takes singular values (r,), descending, s_1 > 0, and does not see their scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stable_rank(singular_values: ArrayLike) -> float:
    """|A|_F^2 / s_1^2, between 1 and r.

    Rudelson & Vershynin, "Sampling from large matrices", J. ACM 54(4), 2007.
    """
    return float((_unit(singular_values) ** 2).sum())


def nuclear_rank(singular_values: ArrayLike) -> float:
    """|A|_*^2 / |A|_F^2, between 1 and r (arXiv 2512.04299)."""
    s = _unit(singular_values)
    return float(s.sum() ** 2 / (s**2).sum())


def svd_entropy(singular_values: ArrayLike) -> float | None:
    """Entropy of q_i = s_i^2 / sum(s^2) over log r; None for r = 1.

    Moonlight, arXiv 2502.16982, section 3.4.
    """
    q = _energies(singular_values)
    if q.size == 1:
        return None
    return _entropy(q) / float(np.log(q.size))


def effective_rank(singular_values: ArrayLike) -> float:
    """Exponential of the entropy of p_i = s_i / sum(s), between 1 and r.

    Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007: the
    singular values themselves, not their squares.
    """
    s = _unit(singular_values)
    return float(np.exp(_entropy(s / s.sum())))


def effective_rank_energy(singular_values: ArrayLike) -> float:
    """Exponential of the entropy of q_i = s_i^2 / sum(s^2) (arXiv 2509.26030)."""
    return float(np.exp(_entropy(_energies(singular_values))))


def top_energy(singular_values: ArrayLike, count: int = 10) -> float:
    """Share of sum(s^2) in the `count` largest directions (arXiv 2509.26030)."""
    return min(1.0, float(_energies(singular_values)[:count].sum()))


def quartile_ratio(singular_values: ArrayLike, floor: float = 0.0) -> float | None:
    """Q3(s^2) / Q1(s^2), quartiles by linear interpolation (arXiv 2509.26030).

    Args:
        singular_values: (r,) descending, s_1 > 0.
        floor: Absolute; a lower quartile at or below its square is rounding.

    Returns:
        The ratio, or None where the lower quartile is not resolved.
    """
    s = np.asarray(singular_values, dtype=np.float64)
    energies = (s / s[0])[::-1] ** 2
    # They are sorted: np.percentile would search for what is at hand.
    low, high = np.interp(np.array([0.25, 0.75]) * (s.size - 1), np.arange(s.size), energies)
    return float(high / low) if low > (floor / s[0]) ** 2 else None


def _unit(singular_values: ArrayLike) -> NDArray[np.float64]:
    s = np.asarray(singular_values, dtype=np.float64)
    unit: NDArray[np.float64] = s / s[0]
    return unit


def _energies(singular_values: ArrayLike) -> NDArray[np.float64]:
    squares = _unit(singular_values) ** 2
    energies: NDArray[np.float64] = squares / squares.sum()
    return energies


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0.0]
    return float(max(0.0, -(positive * np.log(positive)).sum()))
