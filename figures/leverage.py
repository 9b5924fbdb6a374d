"""What exact orthogonalization would leave: the row norms of the polar factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def polar_row_norms(
    matrix: npt.NDArray[Any], *, floor: float = 0.0, relative: float = 1e-6
) -> npt.NDArray[np.float64]:
    """Return the row norms of the polar factor of a matrix, the square roots of its leverages.

    The polar factor U Vᵀ has the row norms of U, so one thin factorization of the smaller side
    is enough. Directions at or below ``max(floor, relative * s_1)`` are left out.

    Args:
        matrix: m x n, any real dtype.
        floor: singular values at or below are unresolved.
        relative: the same as a share of the largest singular value.

    Returns:
        m norms, float64; zeros where the matrix has no resolved direction.

    >>> polar_row_norms(np.diag([3.0, 2.0])).round(6).tolist()
    [1.0, 1.0]
    """
    left, values, _ = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    if values.size == 0 or values[0] <= floor:
        return np.zeros(matrix.shape[0])
    kept = values > max(floor, relative * values[0])
    norms: npt.NDArray[np.float64] = np.linalg.norm(left[:, kept], axis=1)
    return norms
