"""AdamW (arXiv:1711.05101), for embeddings, heads, norms and biases beside the matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from optgeom.optim.families import AdamWSettings

__all__ = ["AdamWUpdate", "adamw_step_", "adamw_update"]


class AdamWUpdate(NamedTuple):
    """One step's direction and the state after it; W moves by -lr * update."""

    update: Tensor
    first_moment: Tensor
    second_moment: Tensor


def _accumulate_(
    first_moment: Tensor, second_moment: Tensor, gradient: Tensor, settings: AdamWSettings
) -> None:
    beta1, beta2 = settings.betas
    gradient = gradient.to(first_moment.dtype)
    first_moment.lerp_(gradient, 1 - beta1)
    second_moment.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)


def _denominator(second_moment: Tensor, step: float, settings: AdamWSettings) -> Tensor:
    correction = math.sqrt(1 - settings.betas[1] ** step)
    return (second_moment.sqrt() / correction).add_(settings.eps)


def adamw_update(
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    *,
    step: int,
    settings: AdamWSettings,
) -> AdamWUpdate:
    """The direction of one AdamW step, without its weight decay; modifies nothing.

    Args:
        gradient: Any shape and floating dtype.
        first_moment: The same shape, before this step; zeros before the first.
        second_moment: Likewise.
        step: Counted from one.
        settings: ``betas`` and ``eps`` are read.

    Returns:
        The direction and both moments after the step, in the moments' dtype.
    """
    first_moment, second_moment = first_moment.clone(), second_moment.clone()
    _accumulate_(first_moment, second_moment, gradient, settings)
    corrected = first_moment / (1 - settings.betas[0] ** step)
    update = corrected / _denominator(second_moment, step, settings)
    return AdamWUpdate(update, first_moment, second_moment)


def adamw_step_(
    parameter: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    *,
    step: float,
    lr: float,
    settings: AdamWSettings,
    observe: Callable[[Tensor], None] | None = None,
) -> None:
    """One AdamW step in place, with the bits of torch.optim.AdamW.

    Args:
        parameter: Any shape; decayed, then moved.
        gradient: The same shape; not modified.
        first_moment: Overwritten.
        second_moment: Overwritten.
        step: Counted from one.
        lr: The learning rate.
        settings: All are read.
        observe: Called with the direction, in float32 or wider, before the parameter is written.
    """
    _accumulate_(first_moment, second_moment, gradient, settings)
    denominator = _denominator(second_moment, step, settings)
    correction = 1 - settings.betas[0] ** step
    if observe is not None:
        wide = torch.promote_types(first_moment.dtype, torch.float32)
        observe((first_moment.to(wide) / denominator).div_(correction))
    if settings.weight_decay != 0:
        parameter.mul_(1 - lr * settings.weight_decay)
    parameter.addcdiv_(first_moment, denominator, value=-lr / correction)
