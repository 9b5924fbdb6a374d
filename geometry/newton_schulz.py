"""What an approximate orthogonalization does to single values, and what it adds to the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEFT_SMALL_BELOW = 0.5
"""A direction that the polynomial leaves below this has not been orthogonalized."""


def odd_polynomials(
    values: ArrayLike, polynomial: Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """Apply a chain of odd quintic polynomials to numbers.

    Args:
        values: Any shape.
        polynomial: Rows (a, b, c) of x <- a x + b x^3 + c x^5, first to last.

    Returns:
        The values after the last row, same shape.
    """
    x = np.asarray(values, dtype=np.float64)
    for a, b, c in polynomial:
        square = x * x
        x = x * (a + square * (b + square * c))
    return x


def floor_fraction(singular_values: ArrayLike, polynomial: Sequence[Sequence[float]]) -> float:
    """Share of directions of ns_input that the polynomial in use leaves below 0.5.

    arXiv 2606.04058.

    Args:
        singular_values: (r,) of the matrix that enters, s_1 > 0; any scale, since the iteration
            divides by the Frobenius norm first.
        polynomial: Rows (a, b, c), as for `odd_polynomials`.

    Returns:
        Between 0 and 1.
    """
    s = np.asarray(singular_values, dtype=np.float64)
    s = s / s[0]
    after = odd_polynomials(s / np.sqrt((s**2).sum()), polynomial)
    return float((np.abs(after) < LEFT_SMALL_BELOW).mean())


def row_error(found: ArrayLike, exact: ArrayLike) -> float | None:
    """Relative distance of row norms from a multiple of the exact ones, the best by least squares.

    Args:
        found: (m,) row norms of the approximate factor O.
        exact: (m,) row norms of the exact polar factor P.

    Returns:
        |rho(O) - c rho(P)| / |rho(O)|, between 0 and 1; None where either is zero throughout.
    """
    rho, target = _unit(found), _unit(exact)
    if rho is None or target is None:
        return None
    return float(np.linalg.norm(rho - (rho @ target) * target))


def _unit(norms: ArrayLike) -> NDArray[np.float64] | None:
    values = np.asarray(norms, dtype=np.float64)
    top = float(values.max())
    if not 0.0 < top < np.inf:
        return None
    # First by the largest: squares of norms near float64's ends would leave its range.
    values = values / top
    unit: NDArray[np.float64] = values / np.linalg.norm(values)
    return unit
