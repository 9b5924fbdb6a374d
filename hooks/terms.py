"""What an operation adds to the weights, kept as its operands until somebody wants the numbers.

A foreach operation has an addend for every weight of the model. Computing all of them while it
runs would cost a copy of the model; its operands are there anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["sum", "product", "quotient"]


@dataclass(slots=True, eq=False)
class Term:
    """`factor` times one operand, or times the product or quotient of two.

    The operands are live state of the optimizer: whoever holds a term sees to it that `fix` is
    called before one of them is written to.
    """

    kind: Kind
    operands: tuple[Any, ...]
    factor: float = 1.0

    def evaluate(self, like: Tensor, times: float = 1.0, out: Tensor | None = None) -> Tensor:
        """The addend's numbers, times a factor.

        Args:
            like: a tensor of the weights' shape, dtype and device.
            times: multiplied with `factor` before anything is rounded.
            out: (at least as many entries,) flat, of the precision of the fold: overwritten, where
                memory of one's own is not worth its pages.

        Returns:
            A new tensor of that shape, or one in `out`; float64 for float64 weights, else float32.
        """
        factor = self.factor * times
        if self.kind == "sum" and not isinstance(self.operands[0], Tensor):
            return _room(like, like, out).fill_(float(self.operands[0]) * factor)
        wide = [_wide(operand, like) for operand in self.operands]
        room = _room(like, wide[0], out)
        if self.kind == "sum":
            return torch.mul(wide[0], factor, out=room)
        combine = torch.addcdiv if self.kind == "quotient" else torch.addcmul
        # as the operation computes it, in one pass: a factor of its own would be a second one
        return combine(_zero(like), *wide, value=factor, out=room)

    def fix(self, like: Tensor) -> None:
        """Compute the numbers now, and let the operands go."""
        value = Term(self.kind, self.operands).evaluate(like)
        self.kind, self.operands = "sum", (value,)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The operands that hold memory."""
        return tuple(operand for operand in self.operands if isinstance(operand, Tensor))


def precision(weights: Tensor) -> torch.dtype:
    """The precision that folds are made in: float64 for float64 weights, else float32."""
    return torch.float64 if weights.dtype == torch.float64 else torch.float32


def _room(like: Tensor, operand: Tensor, out: Tensor | None) -> Tensor:
    """Memory for an addend, with its entries in the operand's order, if that is a dense one."""
    turned = operand.shape == like.shape and _is_turned(operand)
    if out is None:
        out = torch.empty(like.numel(), dtype=precision(like), device=like.device)
    if turned or like.is_contiguous():
        return out.as_strided(like.shape, operand.stride() if turned else like.stride())
    return out[: like.numel()].view(like.shape)


def _is_turned(operand: Tensor) -> bool:
    return operand.ndim == 2 and not operand.is_contiguous() and operand.mT.is_contiguous()


@lru_cache(maxsize=8)
def _zero_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.zeros((), device=device, dtype=dtype)


def _zero(like: Tensor) -> Tensor:
    return _zero_on(like.device, precision(like))


def _wide(operand: Any, like: Tensor) -> Tensor:
    """An operand in the precision of the fold, expanded to the weights' shape."""
    if not isinstance(operand, Tensor):
        return torch.tensor(float(operand), dtype=precision(like), device=like.device)
    if _fits(operand, like):  # nearly always, and less than asking for a conversion
        return operand
    operand = operand.detach()
    if operand.layout == torch.sparse_coo:
        operand = operand.to_dense()
    wide: Tensor = operand.to(device=like.device, dtype=precision(like))
    return wide if wide.shape == like.shape else wide.expand(like.shape)


def _fits(operand: Tensor, like: Tensor) -> bool:
    return (
        operand.dtype == precision(like)
        and operand.shape == like.shape
        and operand.device == like.device
        and operand.layout == torch.strided
        and not operand.requires_grad
    )
