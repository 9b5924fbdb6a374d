"""How two matrices of one shape lie to each other, whatever their scales."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.scaling import reachable, scaled

_SMALLEST_SAFE_SUM = 1e-20
_LARGEST_SAFE_SUM = 1e30
_CHUNK = 512
"""Entries per float32 sum: a sum of equal terms errs by its length; one of 1e6, by up to 1e-3."""


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


@torch.no_grad()
def overlap(first: Tensor, second: Tensor) -> Overlap:
    """Cosine <A, B> / (|A| |B|), and the norms it is made of, without a host synchronization.

    Divides both by their largest entries first: any scale is safe. `product` is faster on a CPU.

    Args:
        first: (..., m, n), any float dtype and device.
        second: (..., m, n), any float dtype; moved to the first one's device.

    Returns:
        Cosine with absolute error 1e-6 where both fit float32, 1e-14 where one is float64.
    """
    first = reachable(first)
    second = second.to(first.device)
    dtype = common_dtype(first, second)
    a, a_scale = scaled(first.to(dtype))
    b, b_scale = scaled(second.to(dtype))
    a_norm = torch.linalg.vector_norm(a, dim=(-2, -1), dtype=torch.float64)
    b_norm = torch.linalg.vector_norm(b, dim=(-2, -1), dtype=torch.float64)
    cosine = (a * b).sum((-2, -1), dtype=torch.float64) / (a_norm * b_norm)
    return Overlap(cosine.clamp(-1.0, 1.0), a_norm * a_scale, b_norm * b_scale)


def common_dtype(*matrices: Tensor) -> torch.dtype:
    """float64 where one of the matrices has it, else float32."""
    wide = any(matrix.dtype == torch.float64 for matrix in matrices)
    return torch.float64 if wide else torch.float32


def product(first: Tensor, second: Tensor) -> float | None:
    """<A, B> of two matrices on the CPU, in one read of each.

    Args:
        first: (m, n), any float dtype.
        second: (m, n), any float dtype.

    Returns:
        The inner product, with absolute error 3e-7 |A| |B| where both fit float32, 1e-14 where one
        is float64; None where it is not finite. It is meant for norms that `is_safe` accepts.
    """
    a, b = _flat(first, second)
    whole = len(a) // _CHUNK * _CHUNK
    chunks = np.vecdot(a[:whole].reshape(-1, _CHUNK), b[:whole].reshape(-1, _CHUNK))
    rest = float(np.vecdot(a[whole:], b[whole:])) if whole < len(a) else 0.0
    found = float(chunks.sum(dtype=np.float64)) + rest
    return found if math.isfinite(found) else None


def is_safe(square: float) -> bool:
    """Whether a squared norm is far enough from float32's ends for `product` to be trusted."""
    return _SMALLEST_SAFE_SUM < square < _LARGEST_SAFE_SUM


def _flat(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both as vectors, their entries in one order: views where the layouts allow."""
    dtype = common_dtype(first, second)
    if not (first.is_contiguous() and second.is_contiguous()) and first.mT.is_contiguous():
        first, second = first.mT, second.mT
    a, b = (x.detach().to(dtype).contiguous() for x in (first, second))
    return a.numpy().reshape(-1), b.numpy().reshape(-1)
