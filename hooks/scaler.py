"""What a GradScaler tells a fused optimizer, which takes the loss scale out by itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def skipped(optimizer: Any) -> bool:
    """Whether a fused optimizer is about to do nothing, since GradScaler found an overflow."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.any())


def loss_scale(optimizer: Any) -> float:
    """What GradScaler left the gradients of a fused optimizer multiplied with, else 1."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
