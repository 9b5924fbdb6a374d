"""One watched parameter during one captured step: where it lies, what has happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from optgeom.hooks.fold import Fold, predicts
from optgeom.hooks.layers import as_float
from optgeom.hooks.sharding import local

SAMPLES = 256
"""Entries per matrix that are compared before and after, to catch writes that show no operation."""

Source = Literal["dispatch", "difference"]


@dataclass(slots=True, eq=False)
class Slot:
    """What is known of one parameter on this rank while its optimizer steps.

    Attributes:
        parameter: whose step it is.
        weights: the rank's own part of it, sharing its memory.
        pointer: where that memory began when the step did.
        where: indices of the sampled entries.
        sampled: those entries before the step, (k,).
        kept: a copy of the weights before the step, where that stage is recorded.
        fold: what the operations did so far.
        gradient: the rank's part of the gradient; a copy once the optimizer overwrites it.
        gradient_pointer: where the gradient lay, -1 without one.
        taps: stages that the optimizer handed over, whole.
    """

    parameter: nn.Parameter
    weights: Tensor
    pointer: int
    where: tuple[Tensor, ...]
    sampled: Tensor
    kept: Tensor | None = None
    fold: Fold = field(default_factory=Fold)
    gradient: Tensor | None = None
    gradient_pointer: int = -1
    taps: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parameter: nn.Parameter, *, by_difference: bool, keep: bool) -> Slot:
        """Begin the step for a parameter.

        Args:
            parameter: any placement.
            by_difference: its writes are known to show no operation.
            keep: the weights before the step are recorded themselves.
        """
        weights = local(parameter.detach())
        where = _where(weights.shape, weights.device)
        slot = cls(parameter, weights, weights.data_ptr(), where, weights[where])
        if keep:
            slot.kept = weights.clone()
        if by_difference:
            slot.fold.interrupt("a write that shows no operation", weights)
        return slot

    def note_gradient(self) -> None:
        """Look where the gradient is now."""
        grad = self.parameter.grad
        self.gradient = None if grad is None else local(grad.detach())
        self.gradient_pointer = -1 if self.gradient is None else self.gradient.data_ptr()

    @property
    def source(self) -> Source:
        """How the update was read."""
        return "dispatch" if self.fold.base is None else "difference"

    def before(self, after: Tensor) -> Tensor:
        """The weights before the step: kept, or rebuilt to rounding from those after it."""
        return self.fold.before(after) if self.kept is None else as_float(self.kept)

    def verified(self) -> bool:
        """Whether the weights are where and what the folded operations say."""
        if self.fold.is_snapshot:
            return True
        after = local(self.parameter.detach())
        if after.shape != self.weights.shape or (
            self.fold.base is None and after.data_ptr() != self.pointer
        ):
            return False
        shift = self.fold.moved(after)
        return predicts(
            self.fold, self.sampled, after[self.where], None if shift is None else shift[self.where]
        )


@lru_cache(maxsize=1024)
def _where(shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
    """Indices of at most SAMPLES entries, spread evenly over a tensor of any strides."""
    count = min(SAMPLES, shape.numel())
    flat = torch.arange(count, device=device) * shape.numel() // max(count, 1)
    if not count:
        return tuple(flat for _ in shape)
    return torch.unravel_index(flat, shape)
