"""Matrices with entries of at most 1, whose squares neither over- nor underflow."""

from __future__ import annotations

import torch
from torch import Tensor


def reachable(matrix: Tensor) -> Tensor:
    """The matrix, on the CPU where its device has no float64."""
    return matrix if matrix.is_cpu or matrix.device.type != "mps" else matrix.cpu()


def widened(matrix: Tensor) -> Tensor:
    """The matrix in float64, on its device, or on the CPU where the device has no float64."""
    return reachable(matrix).to(torch.float64)


def scaled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each matrix by its largest absolute entry.

    Args:
        matrix: (..., m, n) float32 or float64.

    Returns:
        The divided matrices, (..., m, n), a new tensor; and the divisors, (...,), NaN where the
        matrix holds NaN. A zero matrix is divided by 1, and its divisor is 1.
    """
    scale = matrix.abs().amax((-2, -1))
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return matrix / scale[..., None, None], scale
