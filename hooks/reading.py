"""One captured step of one optimizer, read while it runs.

A reading is told of every operation that writes, before it runs. It folds those on watched
weights, keeps gradients that are about to be overwritten, and follows which tensors were made
from the weights, so that weight decay inside the direction is not mistaken for the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.weak import WeakIdKeyDictionary

from optgeom.hooks.address import Address, Span, address_of, span_of, unwrap
from optgeom.hooks.fold import Fold, Origin, predicts
from optgeom.hooks.layers import as_float
from optgeom.hooks.operations import arguments, at, effect_of
from optgeom.hooks.sharding import local

SAMPLES = 256
"""Entries per matrix that are compared before and after, to catch writes that show no operation."""

SHAPE_ONLY = frozenset(
    f"aten::{prefix}{fill}{suffix}"
    for prefix, suffix in (("new_", ""), ("", "_like"))
    for fill in ("zeros", "ones", "empty", "full", "rand", "randn", "empty_strided")
)
"""Operations that take a tensor's shape and nothing of its values."""

OVERWRITING = frozenset({"aten::copy_", "aten::zero_", "aten::fill_", "aten::_foreach_zero_"})
"""In-place operations after which nothing is left of what the target held."""

Source = Literal["dispatch", "difference"]


@dataclass(slots=True, eq=False)
class Slot:
    """What is known of one parameter during the step."""

    parameter: nn.Parameter
    weights: Tensor
    pointer: int
    where: tuple[Tensor, ...]
    sampled: Tensor
    fold: Fold = field(default_factory=Fold)
    gradient: Tensor | None = None
    taps: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parameter: nn.Parameter, by_difference: bool) -> Slot:
        """Begin the step for a parameter; `by_difference` keeps a copy of its weights."""
        weights = local(parameter.detach())
        where = _where(weights)
        slot = cls(parameter, weights, weights.data_ptr(), where, weights[where].clone())
        if by_difference and weights.numel():
            slot.fold.interrupt("a write that shows no operation", weights)
        return slot

    @property
    def source(self) -> Source:
        """How the update was read."""
        return "dispatch" if self.fold.base is None else "difference"

    def verified(self) -> bool:
        """Whether the weights are where and what the folded operations say."""
        after = local(self.parameter.detach())
        if after.data_ptr() != self.pointer:
            return False
        shift = self.fold.moved(after)
        return predicts(
            self.fold, self.sampled, after[self.where], None if shift is None else shift[self.where]
        )


def _where(weights: Tensor) -> tuple[Tensor, ...]:
    """Indices of at most SAMPLES entries, spread evenly over a tensor of any strides."""
    count = min(SAMPLES, weights.numel())
    flat = torch.arange(count, device=weights.device) * weights.numel() // max(count, 1)
    return torch.unravel_index(flat, weights.shape)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)


class Reading:
    """The slots of one optimizer's captured step."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        by_difference: Sequence[bool],
    ) -> None:
        """Note where the weights and gradients are, before the step.

        Args:
            parameters: whose updates are read.
            by_difference: for each, whether its writes are known to show no operation.
        """
        self.slots = [
            Slot.of(parameter, difference)
            for parameter, difference in zip(parameters, by_difference, strict=True)
        ]
        self._by_address: dict[Address, Slot] = {}
        self._spans: list[tuple[Span, Slot]] = []
        self._storages: set[int] = set()
        self._origins: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._shapes = {tuple(slot.parameter.shape) for slot in self.slots}
        self._shapes |= {tuple(slot.weights.shape) for slot in self.slots}
        for slot in self.slots:
            if slot.weights.numel():
                self._by_address[address_of(slot.weights)] = slot
                span = span_of(slot.weights)
                self._spans.append((span, slot))
                self._storages.add(span.storage)
        self._gradients: list[tuple[Span, Slot]] = []
        self.note_gradients()

    def note_gradients(self) -> None:
        """Look where the gradients are now; called again after a closure has made them anew."""
        self._gradients = []
        for slot in self.slots:
            grad = slot.parameter.grad
            plain = None if grad is None else unwrap(grad)
            slot.gradient = None if grad is None else local(grad.detach())
            if plain is not None and plain.numel():
                self._gradients.append((span_of(plain), slot))
        self._storages.update(span.storage for span, _ in self._gradients)

    def tap(self, parameter: Tensor, stage: str, tensor: Tensor) -> None:
        """Keep a copy of what an optimizer hands over; unknown parameters are ignored."""
        for slot in self.slots:
            if slot.parameter is parameter:
                slot.taps[stage] = as_float(local(tensor)).clone()

    def before(self, func: OpOverload, names: tuple[str, ...], args: Any, kwargs: Any) -> None:
        """Called before an operation that writes.

        Args:
            func: the operation.
            names: of its arguments that it writes to.
            args: its positional operands.
            kwargs: its keyword operands.
        """
        values = arguments(func, args, kwargs)
        for name in names:
            written = values.get(name)
            if isinstance(written, (list, tuple)):
                foreach = func._schema.name.startswith("aten::_foreach_") and name == "self"
                for index, target in enumerate(written):
                    if isinstance(target, Tensor):
                        entry = at(values, index, len(written)) if foreach else values
                        self._write(func, entry, target)
            elif isinstance(written, Tensor):
                self._write(func, values, written)

    def _write(self, func: OpOverload, values: Mapping[str, Any], written: Tensor) -> None:
        target = unwrap(written)
        if target is None or target.untyped_storage().data_ptr() not in self._storages:
            self._overwrite(func, values, written)
            return
        here = address_of(target)
        slot = self._by_address.get(here)
        if slot is not None:
            operands = {k: unwrap(v) if isinstance(v, Tensor) else v for k, v in values.items()}
            effect = effect_of(func, operands, target, lambda other: _is(other, here))
            if effect is None:
                slot.fold.interrupt(func._schema.name, target)
            else:
                slot.fold.apply(effect, target, self._origin_of(values, slot))
            return
        span = span_of(target)
        for other, slot in self._spans:
            if span.overlaps(other):
                slot.fold.interrupt(func._schema.name + " through a view", slot.weights)
        self._rescue(span)
        self._overwrite(func, values, written)

    def _rescue(self, span: Span) -> None:
        """Copy gradients that the next operation overwrites."""
        kept = [entry for entry in self._gradients if span.overlaps(entry[0])]
        for entry in kept:
            slot = entry[1]
            slot.gradient = None if slot.gradient is None else slot.gradient.clone()
            self._gradients.remove(entry)

    def after(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Called after an operation that writes nothing: what it made may stem from the weights."""
        if func._schema.name in SHAPE_ONLY:
            return
        values = arguments(func, args, kwargs)
        if isinstance(result, Tensor):
            self._spread(values, result)
        elif isinstance(result, (list, tuple)):
            for index, entry in enumerate(result):
                if isinstance(entry, Tensor):
                    self._spread(at(values, index, len(result)), entry)

    def _overwrite(self, func: OpOverload, values: Mapping[str, Any], written: Tensor) -> None:
        if func._schema.name in OVERWRITING:
            self._origins.pop(written, None)
            values = {name: value for name, value in values.items() if name != "self"}
        self._spread(values, written)

    def _spread(self, values: Mapping[str, Any], result: Tensor) -> None:
        if tuple(result.shape) not in self._shapes or not result.is_floating_point():
            return
        for slot, origin in self._made_from(values):
            if tuple(result.shape) == tuple(slot.parameter.shape) or (
                result.shape == slot.weights.shape
            ):
                self._origins[result] = (slot, origin)
                return

    def _made_from(self, values: Mapping[str, Any]) -> Iterable[tuple[Slot, Origin]]:
        operands = list(_tensors(list(values.values())))
        for operand in operands:
            plain = unwrap(operand)
            slot = None if plain is None else self._by_address.get(address_of(plain))
            known = self._origins.get(operand)
            if slot is not None:
                with_gradient = any(self._is_gradient(other, slot) for other in operands)
                yield slot, "in_gradient" if with_gradient else "in_direction"
            elif known is not None:
                yield known

    def _is_gradient(self, operand: Tensor, slot: Slot) -> bool:
        plain = unwrap(operand)
        if plain is None or slot.gradient is None:
            return False
        return plain.data_ptr() == slot.gradient.data_ptr()

    def _origin_of(self, values: Mapping[str, Any], slot: Slot) -> Origin | None:
        rest = {name: value for name, value in values.items() if name not in ("self", "out")}
        return next((origin for own, origin in self._made_from(rest) if own is slot), None)


def _is(other: Any, here: Address) -> bool:
    plain = unwrap(other)
    return plain is not None and address_of(plain) == here
