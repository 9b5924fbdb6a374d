"""What an operation adds to the weights, kept as its operands until somebody wants the numbers.

A foreach operation has an addend for every weight of the model. Computing all of them while it
runs would cost a copy of the model; its operands are there anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def evaluate(self, like: Tensor, times: float = 1.0) -> Tensor:
        """The addend's numbers, times a factor.

        Args:
            like: a tensor of the weights' shape, dtype and device.
            times: multiplied with `factor` before anything is rounded.

        Returns:
            A new tensor of that shape; float64 for float64 weights, else float32.
        """
        factor = self.factor * times
        if self.kind == "sum":
            (operand,) = self.operands
            if not isinstance(operand, Tensor):
                value = float(operand) * factor
                return torch.full(like.shape, value, dtype=precision(like), device=like.device)
            return _expanded(_wide(operand, like) * factor, like)
        left, right = (_wide(operand, like) for operand in self.operands)
        found = left / right if self.kind == "quotient" else left * right
        return _expanded(found.mul_(factor), like)

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


def _wide(operand: Any, like: Tensor) -> Tensor:
    """An operand in the precision of the fold, not yet expanded to the weights' shape."""
    if not isinstance(operand, Tensor):
        return torch.tensor(float(operand), dtype=precision(like), device=like.device)
    operand = operand.detach()
    if operand.layout == torch.sparse_coo:
        operand = operand.to_dense()
    wide: Tensor = operand.to(device=like.device, dtype=precision(like))
    return wide


def _expanded(value: Tensor, like: Tensor) -> Tensor:
    return value if value.shape == like.shape else value.expand(like.shape).contiguous()
