"""One watched parameter during one captured step: where it lies, what has happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from optgeom.hooks.address import PLAIN, address_of, unwrap
from optgeom.hooks.fold import DecayForm, Fold, Origin, narrow_counts
from optgeom.hooks.formulas import Formula
from optgeom.hooks.samples import pick
from optgeom.hooks.sharding import local

Source = Literal["dispatch", "tap", "state", "difference"]


@dataclass(frozen=True, slots=True)
class Expected:
    """How a step wrote to a parameter, each time by a method called on it.

    Attributes:
        history: as of `Fold`.
        origin: how what was added was made from the weights, if it was.
    """

    history: tuple[str, ...]
    origin: Origin | None

    @property
    def is_one_term(self) -> bool:
        """Whether at most one thing was added, and last: nothing has to be held meanwhile."""
        return all(one == "scale" for one in self.history[:-1])


@dataclass(slots=True, eq=False)
class Slot:
    """What is known of one parameter on this rank while its optimizer steps.

    Attributes:
        parameter: whose step it is.
        index: its place among the watched parameters.
        weights: the rank's own part of it, sharing its memory.
        pointer: where that memory began when the step did.
        sampled: its sampled entries before the step, (k,).
        early: it may be finished as soon as the optimizer turns to another parameter.
        late: it may not, since the optimizer is known to come back to it.
        calls: how many operations were understood, and made on the parameter itself.
        expected: how the step will write to it, where only such calls are looked at.
        formula: what the step will have done, from the optimizer's state, where that is known.
        kept: a copy of the weights before the step, where that stage is recorded.
        fold: what the operations did so far.
        gradient: the rank's part of the gradient; a copy once the optimizer overwrites it.
        gradient_pointer: where the gradient lay, -1 without one.
        gradient_lost: whether the optimizer overwrote it, as far as operations showed it.
        gradient_version: how often its memory had been written to when the step began.
        taps: stages that the optimizer handed over, whole.
        handed: the update, while the optimizer hands it over.
        by_tap: whether it did.
        moved: the sampled entries of the update, (k,), once finished.
        finished: whether it was measured already; what is written afterwards is not in the record.
        returned: whether the optimizer wrote to it, to others, and then to it again.
        rewritten: whether it was written to after it was finished.
    """

    parameter: nn.Parameter
    index: int
    weights: Tensor
    pointer: int
    sampled: Tensor
    early: bool = False
    late: bool = False
    calls: int = 0
    expected: Expected | None = None
    formula: Formula | None = None
    kept: Tensor | None = None
    fold: Fold = field(default_factory=Fold)
    gradient: Tensor | None = None
    gradient_pointer: int = -1
    gradient_lost: bool = False
    gradient_version: int = 0
    taps: dict[str, Tensor] = field(default_factory=dict)
    handed: Tensor | None = None
    by_tap: bool = False
    moved: Tensor | None = None
    finished: bool = False
    returned: bool = False
    rewritten: bool = False

    @classmethod
    def of(cls, parameter: nn.Parameter, index: int) -> Slot:
        """Begin the step for a parameter.

        Args:
            parameter: any placement.
            index: its place among the watched parameters.
        """
        weights = local(parameter.detach())
        return cls(parameter, index, weights, weights.data_ptr(), pick(weights).clone())

    def note_gradient(self) -> None:
        """Look where the gradient is now."""
        grad = self.parameter.grad
        if grad is not None and grad.layout == torch.sparse_coo:
            grad = grad.to_dense()
        self.gradient = None if grad is None else local(grad.detach())
        self.gradient_pointer = -1 if self.gradient is None else self.gradient.data_ptr()
        self.gradient_version = _version(self.gradient)

    def holds(self, other: object) -> bool:
        """Whether something is these weights: the same memory in the same geometry."""
        plain = unwrap(other)
        if plain is None or not plain.numel() or plain.data_ptr() != self.pointer:
            return False
        return address_of(plain) == address_of(self.weights)

    @property
    def now(self) -> Tensor:
        """The rank's own part of the weights, wherever it lies now."""
        parameter, weights = self.parameter, self.weights
        if (
            type(parameter) in PLAIN
            and parameter.data_ptr() == self.pointer
            and parameter.shape == weights.shape
            and parameter.stride() == weights.stride()
            and parameter.dtype == weights.dtype
            and parameter.is_neg() == weights.is_neg()
        ):
            return weights
        return local(parameter.detach())

    @property
    def overwrote_gradient(self) -> bool:
        """Whether the step wrote to the gradient that it was given."""
        return self.gradient_lost or _version(self.gradient) != self.gradient_version

    @property
    def source(self) -> Source:
        """How the update was read."""
        if self.by_tap:
            return "tap"
        if self.formula is not None:
            return "state"
        return "dispatch" if self.fold.opaque is None else "difference"

    @property
    def decay_form(self) -> DecayForm:
        """How weight decay entered the step, as far as is known."""
        return self.fold.decay_form if self.formula is None else self.formula.decay_form

    @property
    def in_place(self) -> bool:
        """Whether the weights lie where they lay; a difference does not ask."""
        after = self.now
        if after.shape != self.weights.shape:
            return False
        return self.source == "difference" or after.data_ptr() == self.pointer

    def held_back(self, update: Tensor, lr: float, decay: float) -> Tensor | None:
        """Entries that rounding held back, of those that should have moved.

        Args:
            update: this rank's part.
            lr: the divisor.
            decay: as far as it is known.

        Returns:
            (4,) float64 as of `Fold.held_back`; None where the samples are to say it.
        """
        if self.handed is not None:  # and the weights are as they were
            return narrow_counts(self.weights, update, lr=lr, decay=decay)
        if self.formula is not None:
            return self.formula.counts
        return self.fold.held_back(self.now, self.gradient)

    def finish(self, update: Tensor) -> None:
        """Keep the update's sampled entries and let go of all that was held for it."""
        self.moved = pick(update).clone()
        self.drop()

    def drop(self) -> None:
        """Let go of all that was held; what is written from here on is not read."""
        self.finished = True
        self.handed = self.kept = None
        self.fold.terms, self.fold.base = [], None
        self.taps = {}


def _version(tensor: Tensor | None) -> int:
    """How often a tensor's memory has been written to; 0 where nobody counts."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version
