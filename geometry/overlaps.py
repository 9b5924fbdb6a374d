"""How two matrices of one shape lie to each other, whatever their scales."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optgeom.geometry.scaling import scaled, widened

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


@torch.no_grad()
def overlap(first: Tensor, second: Tensor, *, first_norm: Tensor | None = None) -> Overlap:
    """Cosine <A, B> / (|A| |B|), and the norms it is made of.

    Args:
        first: (..., m, n), any float dtype and device.
        second: (..., m, n), any float dtype; moved to the first one's device.
        first_norm: (...,) Frobenius norm of the first, if known: saves a pass over it.

    Returns:
        Cosine with absolute error 1e-6 where both fit float32, 1e-14 where one is float64.
    """
    second = second.to(first.device)
    if torch.float64 not in (first.dtype, second.dtype):
        a, b = first.to(torch.float32), second.to(torch.float32)
        ab = (a * b).sum((-2, -1)).to(torch.float64)
        bb = b.square().sum((-2, -1)).to(torch.float64)
        if first_norm is None:
            aa = a.square().sum((-2, -1)).to(torch.float64)
        else:
            aa = first_norm.to(bb).square()
        sums = torch.stack([aa, bb])
        if bool(((sums > _SMALLEST_SAFE_SUM) & (sums < _LARGEST_SAFE_SUM)).all()):
            return Overlap(_clamped(ab / (aa * bb).sqrt()), aa.sqrt(), bb.sqrt())
    a, a_scale = scaled(widened(first))
    b, b_scale = scaled(widened(second))
    a_norm, b_norm = torch.linalg.matrix_norm(a), torch.linalg.matrix_norm(b)
    cosine = (a * b).sum((-2, -1)) / (a_norm * b_norm)
    return Overlap(_clamped(cosine), a_norm * a_scale, b_norm * b_scale)


def _clamped(cosine: Tensor) -> Tensor:
    return cosine.clamp(-1.0, 1.0)
