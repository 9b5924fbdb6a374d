"""The algebra of one step on one matrix: W_after = scale * W_before + shift (+ a difference).

An operation that is not understood does not spoil the step: the weights are cloned just before
it, and from there on the step is read from the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optgeom.geometry.floor import units_in_last_place
from optgeom.hooks.layers import as_float
from optgeom.hooks.operations import Effect

SMALL_ULP = 16.0
"""An ulp this many times below what a step moves holds back no more than a few percent of it."""

DecayForm = Literal["none", "decoupled", "in_gradient", "in_direction", "unknown"]
Origin = Literal["in_gradient", "in_direction"]


@dataclass(slots=True)
class Fold:
    """What has happened to one local tensor since the step began."""

    scale: float = 1.0
    shift: Tensor | None = None
    base: Tensor | None = None
    operations: int = 0
    operand_dtype: torch.dtype | None = None
    opaque: str | None = None
    origin: Origin | None = None
    added: Tensor | int = 0
    added_lost: Tensor | int = 0
    scaled: Tensor | int = 0
    scaled_lost: Tensor | int = 0

    def apply(self, effect: Effect, target: Tensor, origin: Origin | None) -> None:
        """Fold an understood operation; called before it runs.

        Args:
            effect: what it does.
            target: the weights before it.
            origin: how its operands were made from the weights, if they were.
        """
        self.operations += 1
        if self.base is not None:
            return
        wide = as_float(target)
        if effect.scale != 1.0:
            self.scaled, self.scaled_lost = _count(
                target, target, wide * effect.scale, self.scaled, self.scaled_lost
            )
            self.scale *= effect.scale
            if self.shift is not None:
                self.shift = self.shift * effect.scale
        if effect.shift is not None:
            self.added, self.added_lost = _count(
                target, effect.shift, wide + effect.shift, self.added, self.added_lost
            )
            self.shift = effect.shift if self.shift is None else self.shift + effect.shift
            self.operand_dtype = _coarser(self.operand_dtype, effect.operands)
            self.origin = "in_direction" if effect.toward else (origin or self.origin)

    def interrupt(self, name: str, target: Tensor) -> None:
        """An operation that is not understood comes next: keep the weights as they are now."""
        self.operations += 1
        if self.base is None:
            self.base = target.detach().clone()
            self.opaque = name

    def moved(self, after: Tensor) -> Tensor | None:
        """What was added besides the scaling: W_after - scale * W_before; None: nothing was."""
        if self.base is None:
            return self.shift
        difference = as_float(after) - as_float(self.base)
        return difference if self.shift is None else difference + self.shift

    @property
    def is_snapshot(self) -> bool:
        """Whether the weights were kept before anything had happened to them."""
        return self.base is not None and self.scale == 1.0 and self.shift is None

    @property
    def decay(self) -> float:
        """The decay that was observed: 1 - scale where the rest is free of the weights."""
        return 1.0 - self.scale if self.decay_form == "decoupled" else 0.0

    @property
    def decay_form(self) -> DecayForm:
        """How weight decay entered the step, as far as the operations show."""
        if self.opaque is not None:
            return "unknown"
        if self.origin is not None:
            return self.origin
        return "decoupled" if self.scale != 1.0 else "none"

    def update(self, after: Tensor, lr: float) -> Tensor | None:
        """-(W_after - (1 - decay) W_before) / lr, in the shape of the local weights.

        Args:
            after: the weights after the step.
            lr: the divisor.

        Returns:
            float32 (float64 for float64 weights); None where nothing was added.
        """
        shift = self.moved(after)
        if self.scale != 1.0 and self.decay == 0.0:
            # the scaling was no decoupled decay, so it belongs to the update
            rest = as_float(after) if shift is None else as_float(after) - shift
            scaling = rest * (1.0 - 1.0 / self.scale) if self.scale else -rest
            shift = scaling if shift is None else shift + scaling
        return None if shift is None else shift / -lr

    def before(self, after: Tensor) -> Tensor:
        """The weights before the step, rebuilt to rounding without having kept them."""
        shift = self.moved(after)
        rest = as_float(after) if shift is None else as_float(after) - shift
        return rest / self.scale if self.scale else rest

    def counts(self, after: Tensor, gradient: Tensor | None) -> Tensor:
        """Entries that should have moved, and those of them that rounding held back.

        Args:
            after: the weights after the step.
            gradient: before it, the same shape.

        Returns:
            (4,) float64: lost and all entries of the update, lost and all of the decay.
        """
        added, added_lost = self.added, self.added_lost
        if self.base is not None and self.shift is None:
            added, added_lost = _held_back(self.base, after, gradient)
        counts = (added_lost, added, self.scaled_lost, self.scaled)
        return torch.stack([torch.as_tensor(c, device=after.device).double() for c in counts])


def _count(
    target: Tensor, term: Tensor, moved: Tensor, asked: Tensor | int, lost: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Add an operation's entries to those asked to move, and to those that rounding held back."""
    moving = torch.count_nonzero(term)
    # entries that nothing is added to stay too, and were not asked to move
    stayed = torch.count_nonzero(moved.to(target.dtype) == target) - (term.numel() - moving)
    return asked + moving, lost + stayed.clamp_min(0)


def _held_back(before: Tensor, after: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many entries should have moved, and how many rounding held back, from a difference.

    A difference does not know what was added. An entry with a gradient that stayed counts as
    held back where its ulp is not small against what the others moved by; else nothing was added.
    """
    asked = torch.ones_like(after, dtype=torch.bool) if gradient is None else gradient != 0
    stayed = (after == before) & asked
    moved = as_float(after) - as_float(before)
    typical = moved.square().sum() / (moved != 0).sum().clamp_min(1)
    coarse = units_in_last_place(before).square() * SMALL_ULP**2 >= typical
    held = stayed & coarse
    return asked.sum() - (stayed & ~coarse).sum(), held.sum()


def _coarser(known: torch.dtype | None, operands: tuple[object, ...]) -> torch.dtype | None:
    """The dtype of least precision among what was added so far and new operands."""
    dtypes = [o.dtype for o in operands if isinstance(o, Tensor) and o.is_floating_point()]
    dtypes += [] if known is None else [known]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def predicts(fold: Fold, before: Tensor, after: Tensor, shift: Tensor | None) -> bool:
    """Whether the folded operations explain sampled weights to 2 ulp per operation.

    Args:
        fold: the folded step.
        before: sampled weights before it, (k,), the weights' dtype.
        after: the same entries after it.
        shift: the same entries of `fold.moved`, None for nothing.
    """
    expected = as_float(before) * fold.scale
    if shift is not None:
        expected = expected + shift
    # a non-finite step is the optimizer's business, not a disagreement of ours
    known = torch.isfinite(expected) & torch.isfinite(as_float(after))
    size = torch.maximum(as_float(before).abs(), as_float(after).abs())
    if shift is not None:
        size = torch.maximum(size, shift.abs())
    info = torch.finfo(after.dtype)
    bound = 2.0 * max(fold.operations, 1) * (info.eps * size + info.smallest_normal)
    return bool((((expected - as_float(after)).abs() <= bound) | ~known).all())
