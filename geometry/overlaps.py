"""How two matrices of one shape lie to each other, whatever their scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.scaling import reachable, scaled

_SMALLEST_SAFE_SUM = 1e-20
_LARGEST_SAFE_SUM = 1e30
CHUNK = 512
"""Entries per float32 sum. Equal terms round alike, so that a sum's error grows with its length:
2.5e-7 at 512 entries; BLAS over 1e6 entries, and PyTorch's vector_norm, were off by 1e-3."""


Cut = tuple[NDArray[np.float32], ...]


class Overlap(NamedTuple):
    """Angle and lengths of two batches of matrices, float64, on the first one's device.

    Attributes:
        cosine: (...,), NaN where a matrix is zero or not finite.
        first_norm: (...,) Frobenius norm of the first.
        second_norm: (...,) Frobenius norm of the second.
    """

    cosine: Tensor
    first_norm: Tensor
    second_norm: Tensor


def overlap(first: Tensor, second: Tensor) -> Overlap:
    """Cosine <A, B> / (|A| |B|), and the norms it is made of, without a host synchronization.

    Divides both by their largest entries first: any scale is safe. `product` is faster on a CPU.

    Args:
        first: (..., m, n), any float dtype and device.
        second: (..., m, n), any float dtype; moved to the first one's device.

    Returns:
        Cosine with absolute error 1e-6 where both fit float32, 1e-14 where one is float64.
    """
    first = reachable(first.detach())
    second = second.detach().to(first.device)
    wide = torch.float64 in (first.dtype, second.dtype)
    dtype = torch.float64 if wide else torch.float32
    a, a_scale = scaled(first.to(dtype))
    b, b_scale = scaled(second.to(dtype))
    a_norm = torch.linalg.vector_norm(a, dim=(-2, -1), dtype=torch.float64)
    b_norm = torch.linalg.vector_norm(b, dim=(-2, -1), dtype=torch.float64)
    cosine = (a * b).sum((-2, -1), dtype=torch.float64) / (a_norm * b_norm)
    return Overlap(cosine.clamp(-1.0, 1.0), a_norm * a_scale, b_norm * b_scale)


def cut(matrix: NDArray[np.float32]) -> Cut:
    """A matrix in pieces for `product`, in the same memory where it is in C order.

    Returns:
        (k, 512), and what is left, (< 512,), where something is.
    """
    vector = matrix.reshape(-1)
    rest = vector.size % CHUNK
    if not rest:
        return (vector.reshape(-1, CHUNK),)
    return vector[:-rest].reshape(-1, CHUNK), vector[-rest:]


def product(first: Cut, second: Cut) -> float:
    """<A, B> of two matrices of equal shape and layout, in one read of each.

    Returns:
        The inner product, with absolute error 3e-7 |A| |B|, if both squared norms are `is_safe`.
    """
    found = 0.0
    # The caller finds out what overflows: that square is not safe.
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b in zip(first, second, strict=True):
            found += float(np.add.reduce(np.vecdot(a, b), axis=None, dtype=np.float64))
    return found


def is_safe(square: float) -> bool:
    """Whether a squared norm is far enough from float32's ends for `product` to be trusted."""
    return _SMALLEST_SAFE_SUM < square < _LARGEST_SAFE_SUM
