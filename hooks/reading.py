"""One captured step of one optimizer, read while it runs.

A reading is told of every operation that writes, before it runs. It folds those on watched
weights, and keeps gradients that are about to be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload

from optgeom.hooks.address import Address, Span, address_of, same_layout, span_of, unwrap
from optgeom.hooks.layers import as_float
from optgeom.hooks.operations import arguments, at, effect_of, is_foreach, scale_operand
from optgeom.hooks.origins import Origins
from optgeom.hooks.sharding import local
from optgeom.hooks.slot import Slot
from optgeom.hooks.spectral import SVD

SHAPE_ONLY = frozenset(
    f"aten::{prefix}{fill}{suffix}"
    for prefix, suffix in (("new_", ""), ("", "_like"))
    for fill in ("zeros", "ones", "empty", "full", "rand", "randn", "empty_strided")
)
"""Operations that take a tensor's shape and nothing of its values."""

OVERWRITING = frozenset(
    f"aten::{name}" for name in ("copy_", "zero_", "fill_", "_foreach_zero_", "_foreach_copy_")
)
"""In-place operations after which nothing is left of what the target held."""


class Reading:
    """The slots of one optimizer's captured step."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        by_difference: Sequence[bool],
        taps: Sequence[Iterable[str]] = (),
        keep: bool = False,
    ) -> None:
        """Note where the weights and gradients are, before the step.

        Args:
            parameters: whose updates are read.
            by_difference: for each, whether its writes are known to show no operation.
            taps: for each, the stages that are kept if the optimizer hands them over.
            keep: whether the weights before the step are recorded.
        """
        self.slots = [
            Slot.of(parameter, by_difference=difference, keep=keep)
            for parameter, difference in zip(parameters, by_difference, strict=True)
        ]
        self._taps = {
            id(slot.parameter): (slot, frozenset(stages))
            for slot, stages in zip(self.slots, taps, strict=False)
        }
        self._starts: dict[int, list[tuple[Address, Slot]]] = {}
        self._spans: list[tuple[Span, Slot]] = []
        self._storages: set[int] = set()
        for slot in self.slots:
            if slot.weights.numel():
                here = address_of(slot.weights)
                self._starts.setdefault(slot.pointer, []).append((here, slot))
                span = span_of(slot.weights)
                self._spans.append((span, slot))
                self._storages.add(span.storage)
        self.saw_svd = False
        self._origins = Origins(self.slots, self._find)
        self._gradients: list[tuple[Span, Slot]] = []
        self.note_gradients()

    def note_gradients(self) -> None:
        """Look where the gradients are now; called again after a closure has made them anew."""
        self._gradients = []
        for slot in self.slots:
            slot.note_gradient()
            plain = None if slot.gradient is None else unwrap(slot.gradient)
            if plain is not None and plain.numel():
                self._gradients.append((span_of(plain), slot))
        self._storages.update(span.storage for span, _ in self._gradients)

    def tap(self, parameter: Tensor, stage: str, tensor: Tensor) -> None:
        """Keep a copy of what an optimizer hands over, if this parameter's stage is recorded."""
        slot, stages = self._taps.get(id(parameter), (None, frozenset()))
        if slot is not None and stage in stages:
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
            if isinstance(written, Tensor):
                self._write(func, values, written)
            elif isinstance(written, (list, tuple)):
                foreach = is_foreach(func) and name == "self"
                for index, target in enumerate(written):
                    if isinstance(target, Tensor):
                        entry = at(values, index, len(written)) if foreach else {}
                        self._write(func, entry, target)

    def after(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Called after an operation that writes nothing: what it made may stem from the weights."""
        name = func._schema.name
        if name in SHAPE_ONLY:
            return
        self.saw_svd = self.saw_svd or name == SVD
        values = arguments(func, args, kwargs)
        if isinstance(result, Tensor):
            self._origins.spread(_tensors(values.values()), result)
        elif isinstance(result, (list, tuple)):
            foreach = is_foreach(func)
            for index, made in enumerate(result):
                if isinstance(made, Tensor):
                    entry = at(values, index, len(result)) if foreach else values
                    self._origins.spread(_tensors(entry.values()), made)

    def _find(self, plain: Tensor) -> Slot | None:
        """The slot whose weights a plain tensor is: the same memory in the same geometry."""
        for here, slot in self._starts.get(plain.data_ptr(), ()):
            if address_of(plain) == here:
                return slot
        return None

    def _write(self, func: OpOverload, values: Mapping[str, Any], written: Tensor) -> None:
        target = unwrap(written)
        if target is None or target.untyped_storage().data_ptr() not in self._storages:
            self._elsewhere(func, values, written)
            return
        slot = self._find(target)
        if slot is not None:
            self._fold(func, values, written, target, slot)
            return
        span = span_of(target)
        for other, slot in self._spans:
            if span.overlaps(other):
                slot.fold.interrupt(func._schema.name + " through a view", slot.weights)
        self._rescue(span)
        self._elsewhere(func, values, written)

    def _fold(
        self,
        func: OpOverload,
        values: Mapping[str, Any],
        written: Tensor,
        target: Tensor,
        slot: Slot,
    ) -> None:
        effect = None
        projected = self._origins.is_measure_of(scale_operand(func, values), slot)
        if not projected and all(_readable(written, value) for value in values.values()):
            operands = {k: unwrap(v) if isinstance(v, Tensor) else v for k, v in values.items()}
            effect = effect_of(func, operands, target, lambda other: self._is(other, slot))
        if effect is None:
            slot.fold.interrupt(func._schema.name, target)
            return
        others = [v for name, v in values.items() if name not in ("self", "out")]
        slot.fold.apply(effect, target, self._origins.of(_tensors(others), slot))

    def _is(self, other: Any, slot: Slot) -> bool:
        plain = unwrap(other)
        return plain is not None and self._find(plain) is slot

    def _rescue(self, span: Span) -> None:
        """Copy gradients that the next operation overwrites."""
        for entry in [entry for entry in self._gradients if span.overlaps(entry[0])]:
            slot = entry[1]
            slot.gradient = None if slot.gradient is None else slot.gradient.clone()
            self._gradients.remove(entry)

    def _elsewhere(self, func: OpOverload, values: Mapping[str, Any], written: Tensor) -> None:
        """Something else than weights is written to: it may come to stem from them."""
        if func._schema.name in OVERWRITING:
            self._origins.forget(written)
            values = {name: value for name, value in values.items() if name != "self"}
        self._origins.spread(_tensors(values.values()), written)


def _readable(written: Tensor, value: object) -> bool:
    """Whether an operand's entries are at hand, and are those that belong to the target's."""
    return not isinstance(value, Tensor) or (
        unwrap(value) is not None and same_layout(written, value)
    )


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
