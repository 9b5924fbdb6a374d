"""How much of a step the stored weights could not take up."""

from __future__ import annotations

import torch
from torch import Tensor

LOST_LIMIT = 0.25
"""Above this share of lost entries a difference of weights correlates with the update itself."""


@torch.no_grad()
def lost_fraction(weight: Tensor, term: Tensor) -> float | None:
    """Share of the entries that a term should have moved and did not.

    Args:
        weight: W as stored, any float dtype.
        term: What is added to it, same shape, at least as wide as the weight.

    Returns:
        #{t_i != 0, fl(W_i + t_i) = W_i} / #{t_i != 0}, fl rounding to the weight's dtype;
        None where the term is zero everywhere.
    """
    wide = torch.promote_types(torch.promote_types(weight.dtype, term.dtype), torch.float32)
    stays = (weight.to(wide) + term.to(wide)).to(weight.dtype) == weight
    asked = term != 0
    count = int(asked.sum())
    return int((stays & asked).sum()) / count if count else None


@torch.no_grad()
def lost_decay(weight: Tensor, decay: float) -> float | None:
    """Share of the non-zero entries that W <- (1 - decay) W leaves where they were.

    Args:
        weight: W as stored, any float dtype.
        decay: Decay of one step, lr times weight decay where it is decoupled.

    Returns:
        The share, or None without decay or where the weight is zero everywhere.
    """
    if decay == 0:
        return None
    wide = torch.promote_types(weight.dtype, torch.float32)
    stays = (weight.to(wide) * (1.0 - decay)).to(weight.dtype) == weight
    asked = weight != 0
    count = int(asked.sum())
    return int((stays & asked).sum()) / count if count else None
