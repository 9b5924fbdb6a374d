"""The algebra of one step on one matrix: W_after = scale * W_before + terms (+ a difference).

An operation that is not understood does not spoil the step: the weights are cloned just before
it, and from there on the step is read from the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from optgeom.geometry.floor import units_in_last_place
from optgeom.hooks.layers import as_float
from optgeom.hooks.operations import Effect
from optgeom.hooks.samples import pick
from optgeom.hooks.terms import Term

SMALL_ULP = 16.0
"""An ulp this many times below what a step moves holds back no more than a few percent of it."""

DecayForm = Literal["none", "decoupled", "in_gradient", "in_direction", "unknown"]
Origin = Literal["in_gradient", "in_direction"]


@dataclass(slots=True)
class Fold:
    """What has happened to one local tensor since the step began.

    Attributes:
        scale: what the weights were multiplied with in all.
        terms: what was added, each already multiplied with the scales that came after it.
        base: the weights just before the first operation that was not understood.
        history: what each operation that wrote to the weights was: "scale", "term" or "opaque".
        operand_dtype: the least precise one that was added.
        opaque: the name of the operation that was not understood.
        origin: how what was added was made from the weights, if it was.
        counts: (4,) float64 per operation, of narrow weights only, see `Fold.held_back`.
        reach: the sampled sizes of all terms together, where there are several: two that nearly
            cancel leave rounding of their own size behind.
    """

    scale: float = 1.0
    terms: list[Term] = field(default_factory=list)
    base: Tensor | None = None
    history: list[str] = field(default_factory=list)
    operand_dtype: torch.dtype | None = None
    opaque: str | None = None
    origin: Origin | None = None
    counts: Tensor | None = None
    reach: Tensor | None = None

    def apply(self, effect: Effect, target: Tensor, origin: Origin | None) -> None:
        """Fold an understood operation; called before it runs.

        Args:
            effect: what it does.
            target: the weights before it.
            origin: how its operands were made from the weights, if they were.
        """
        self.history.append("scale" if effect.term is None else "term")
        if self.base is not None:
            return
        if effect.scale != 1.0:
            if is_narrow(target):
                self._count(2, target, target, as_float(target) * effect.scale)
            self.scale *= effect.scale
            for term in self.terms:
                term.factor *= effect.scale
        if effect.term is not None:
            if is_narrow(target):
                shift = effect.term.evaluate(target)
                self._count(0, target, shift, as_float(target) + shift)
            self.terms.append(effect.term)
            self.operand_dtype = _coarser(self.operand_dtype, effect.operands)
            found = {self.origin, origin, "in_direction" if effect.toward else None}
            for one in ("in_direction", "in_gradient"):  # whatever their order was
                if one in found:
                    self.origin = one
                    break

    def interrupt(self, name: str, target: Tensor) -> None:
        """An operation that is not understood comes next: keep the weights as they are now."""
        self.history.append("opaque")
        if self.base is None:
            self.base = target.detach().clone()
            self.opaque = name

    @property
    def operations(self) -> int:
        """How many operations wrote to the weights."""
        return len(self.history)

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

    def update(self, after: Tensor, lr: float, out: Tensor | None = None) -> Tensor | None:
        """-(W_after - (1 - decay) W_before) / lr, in the shape of the local weights.

        Args:
            after: the weights after the step.
            lr: the divisor.
            out: as of `Term.evaluate`.

        Returns:
            A new tensor, or one in `out`; float32 (float64 for float64 weights); None where nothing
            was added.
        """
        if self.base is None and (self.scale == 1.0 or self.decay != 0.0):
            return self._sum(after, -1.0 / lr, out)
        shift = self._sum(after, 1.0)
        if self.base is not None:
            moved = as_float(after) - as_float(self.base)
            shift = moved if shift is None else moved.add_(shift)
        if self.scale != 1.0 and self.decay == 0.0:
            # the scaling was no decoupled decay, so it belongs to the update
            rest = as_float(after) if shift is None else as_float(after) - shift
            scaling = rest * (1.0 - 1.0 / self.scale) if self.scale else -rest
            shift = scaling if shift is None else shift.add_(scaling)
        return None if shift is None else shift.div_(-lr)

    def _sum(self, like: Tensor, times: float, out: Tensor | None = None) -> Tensor | None:
        total: Tensor | None = None
        for term in self.terms:
            value = term.evaluate(like, times, out if total is None else None)
            if len(self.terms) > 1:
                size = pick(value).abs() / abs(times)
                self.reach = size if self.reach is None else self.reach + size
            total = value if total is None else total.add_(value)
        return total

    def _count(self, place: int, target: Tensor, term: Tensor, moved: Tensor) -> None:
        """Add an operation's entries to those asked to move, and to those that rounding held."""
        moving = torch.count_nonzero(term)
        # entries that nothing is added to stay too, and were not asked to move
        stayed = torch.count_nonzero(moved.to(target.dtype) == target) - (term.numel() - moving)
        if self.counts is None:
            self.counts = torch.zeros(4, dtype=torch.float64, device=target.device)
        self.counts[place] += stayed.clamp_min(0)
        self.counts[place + 1] += moving

    def held_back(self, after: Tensor, gradient: Tensor | None) -> Tensor | None:
        """Entries that rounding held back, of those that should have moved.

        Args:
            after: the weights after the step.
            gradient: before it, the same shape.

        Returns:
            (4,) float64: lost and all entries of the update, lost and all of the decay; None
            where nothing counted them, since the weights are wide.
        """
        if self.base is None or self.terms:
            return self.counts
        asked, lost = _not_moved(self.base, after, gradient)
        counts = torch.zeros(4, dtype=torch.float64, device=after.device)
        if self.counts is not None:
            counts += self.counts
        counts[0], counts[1] = lost, asked
        return counts


def is_narrow(weights: Tensor) -> bool:
    """Whether weights have so few digits that many an update is lost in them: 16 bits or fewer."""
    return weights.dtype.itemsize < 4


def narrow_counts(before: Tensor, update: Tensor, *, lr: float, decay: float) -> Tensor | None:
    """What rounding holds back of a step that is known before it is made.

    Args:
        before: the weights before the step.
        update: the same shape, in the precision of the fold.
        lr: the divisor.
        decay: what the weights are scaled down by first.

    Returns:
        (4,) float64 as of `Fold.held_back`; None for weights that are not narrow.
    """
    if not is_narrow(before):
        return None
    fold = Fold()
    decayed = before
    if decay:
        fold.apply(Effect(1.0 - decay, None), before, None)
        decayed = (as_float(before) * (1.0 - decay)).to(before.dtype)
    fold.apply(Effect(1.0, Term("sum", (update,), -lr)), decayed, None)
    return fold.counts


def _not_moved(before: Tensor, after: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
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
