"""How far apart the largest and the smallest singular value are, and down to which floor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Conditioning(NamedTuple):
    """Condition number of a spectrum against a floor.

    Attributes:
        condition_number: s_1/s_r, or where s_r is at or below the floor, s_1/floor: a lower bound.
        condition_number_resolved: s_1 over the smallest value above the floor; None if none is.
        resolved_rank: How many values are above the floor.
        at_floor: Whether condition_number is the lower bound.
    """

    condition_number: float
    condition_number_resolved: float | None
    resolved_rank: int
    at_floor: bool


def conditioning(singular_values: ArrayLike, floor: float) -> Conditioning:
    """Condition number, of everything and of what is resolved.

    Args:
        singular_values: (r,) descending, s_1 > 0.
        floor: Absolute; values at or below it are rounding.

    Returns:
        The condition numbers (NorMuon, arXiv 2510.05491, Fig. 1a) and the resolved rank. A spectrum
        that lies below the floor as a whole has the trivial bound 1.
    """
    s = np.asarray(singular_values, dtype=np.float64)
    above = s[s > floor]
    rank = int(above.size)
    if rank == s.size:
        number = float(s[0] / s[-1])
        return Conditioning(number, number, rank, at_floor=False)
    bound = max(1.0, float(s[0] / floor)) if floor > 0.0 else float("inf")
    resolved = float(s[0] / above[-1]) if rank else None
    return Conditioning(bound, resolved, rank, at_floor=True)


def spectral_flatness_cv(singular_values: ArrayLike) -> float:
    """Std over mean of the squared singular values, (r,), s_1 > 0: 0 for an orthogonal matrix."""
    energy = _unit(singular_values) ** 2
    return float(energy.std() / energy.mean())


def polar_error(singular_values: ArrayLike) -> float:
    """Root mean square distance of the singular values, (r,), from 1, without any rescaling."""
    distances = np.abs(np.asarray(singular_values, dtype=np.float64) - 1.0)
    # The square of a distance near float64's end would leave its range.
    top = float(distances.max())
    return top * float(np.sqrt(np.mean((distances / top) ** 2))) if top else 0.0


def _unit(singular_values: ArrayLike) -> NDArray[np.float64]:
    s = np.asarray(singular_values, dtype=np.float64)
    unit: NDArray[np.float64] = s / s[0]
    return unit
