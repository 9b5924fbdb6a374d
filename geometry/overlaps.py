"""How two matrices of one shape lie to each other, whatever their scales."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.norms import piece_norms, row_blocks, widened_here
from optgeom.geometry.scaling import reachable, scaled

_SMALLEST_SAFE_SUM = 1e-20
_LARGEST_SAFE_SUM = 1e30


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


def product(first: Tensor, second: Tensor) -> float:
    """<A, B> of two matrices, in one read of each.

    Args:
        first: (m, n), on the CPU.
        second: (m, n), on the CPU; narrow dtypes are widened.

    Returns:
        The inner product, with absolute error 3e-7 |A| |B|, if both squared norms are `is_safe`.
    """
    found = 0.0
    for a, b in row_blocks(first, second):
        found += float((a.to(torch.float32) * b.to(torch.float32)).sum())
    return found


def length(matrix: Tensor) -> float | Tensor:
    """|A|: a number for a matrix on the CPU, else () float64 on its device, not waited for.

    Args:
        matrix: (m, n), any float dtype and device.

    Returns:
        Frobenius norm with relative error 4e-7, 1e-14 for float64 input.
    """
    matrix = widened_here(matrix.detach())
    pieces = piece_norms(matrix)
    if pieces is not None:
        square = float(np.square(pieces).sum())
        if is_safe(square):
            return math.sqrt(square)
    matrix = reachable(matrix)
    if matrix.is_cpu and matrix.dtype != torch.float64:
        square = product(matrix, matrix)
        if is_safe(square):
            return math.sqrt(square)
    norm = overlap(matrix, matrix).first_norm
    return float(norm) if norm.device.type == "cpu" else norm


def is_safe(square: float) -> bool:
    """Whether a squared norm is far enough from float32's ends for `product` to be trusted."""
    return _SMALLEST_SAFE_SUM < square < _LARGEST_SAFE_SUM
