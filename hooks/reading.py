"""One captured step of one optimizer, read while it runs.

A reading is told of every operation that writes, before it runs. It folds those on watched
weights, and keeps gradients that are about to be overwritten. What the operations add is kept as
their operands; a parameter that the optimizer is done with is finished early, so that what is
held does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from optgeom.hooks.address import PLAIN, Address, Span, address_of, same_layout, span_of, unwrap
from optgeom.hooks.layers import as_float
from optgeom.hooks.operations import (
    arguments,
    at,
    base_name,
    effect_of,
    is_foreach,
    scale_operand,
)
from optgeom.hooks.origins import Origins
from optgeom.hooks.sharding import local
from optgeom.hooks.slot import Slot
from optgeom.hooks.spectral import SVD
from optgeom.hooks.terms import Term

SHAPE_ONLY = frozenset(
    f"aten::{prefix}{fill}{suffix}"
    for prefix, suffix in (("new_", ""), ("", "_like"))
    for fill in ("zeros", "ones", "empty", "full", "rand", "randn", "randint", "empty_strided")
)
"""Operations that take a tensor's shape and nothing of its values."""

OVERWRITING = frozenset(
    f"aten::{name}" for name in ("copy_", "zero_", "fill_", "_foreach_zero_", "_foreach_copy_")
)
"""In-place operations after which nothing is left of what the target held."""

IN_FLIGHT = 64 << 20
"""Bytes of operands that are held before parameters are finished early, known to be done or not."""

Finish = Callable[[Slot], None]


class Reading:
    """The slots of one optimizer's captured step."""

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        watches: bool = True,
        taps: Sequence[Iterable[str]] = (),
        finish: Finish | None = None,
    ) -> None:
        """Note where the weights and gradients are, before the step.

        Args:
            slots: one per parameter whose update is read.
            watches: whether it will be told of operations; else of calls and taps alone.
            taps: for each, the stages that are kept if the optimizer hands them over.
            finish: measures a slot that the optimizer is done with; None: all are finished after
                the step.
        """
        self.slots = list(slots)
        self._finish = finish
        self._taps = {
            id(slot.parameter): (slot, frozenset(stages))
            for slot, stages in zip(self.slots, taps, strict=False)
        }
        self._watches = watches
        self._starts: dict[int, list[tuple[Address, Slot]]] = {}
        self._spans: list[tuple[Span, Slot]] = []
        self._storages: set[int] = set()
        for slot in self.slots:
            if watches and slot.weights.numel():
                here = address_of(slot.weights)
                self._starts.setdefault(slot.pointer, []).append((here, slot))
                span = span_of(slot.weights)
                self._spans.append((span, slot))
                self._storages.add(span.storage)
        self.saw_svd = False
        # not a method: what refers to itself lives on, and the gradients with it
        self._find = partial(_find, self._starts)
        self._origins = Origins(self.slots, self._find)
        self._gradients: list[tuple[Span, Slot]] = []
        self._held: dict[int, list[tuple[Span, Term, Slot]]] = {}
        self._held_bytes: dict[int, int] = {}  # by slot
        self._open: dict[int, Slot] = {}  # written to and not finished, oldest first
        self._last: Slot | None = None
        self.note_gradients()

    def note_gradients(self) -> None:
        """Look where the gradients are now; called again after a closure has made them anew."""
        self._gradients = []
        self._origins.note_gradients()
        for slot in self._open.values():
            slot.returned = True  # it was written to, and a closure has run since: more will come
        for slot in self.slots:
            slot.note_gradient()
            if slot.formula is not None:
                slot.formula.prepare(slot.gradient)
            plain = unwrap(slot.gradient) if self._watches else None
            if plain is not None and plain.numel():
                self._gradients.append((span_of(plain), slot))
        self._storages.update(span.storage for span, _ in self._gradients)

    def wants(self, parameter: Tensor, stage: str) -> bool:
        """Whether a stage of a parameter is recorded, and not known already."""
        slot, stages = self._taps.get(id(parameter), (None, frozenset()))
        return slot is not None and stage in stages and not slot.finished

    def tap(self, parameter: Tensor, stage: str, tensor: Tensor) -> None:
        """Take what an optimizer hands over, if it is wanted.

        An update is measured at once; of other stages a copy is kept.
        """
        slot, _ = self._taps[id(parameter)]
        if stage != "update":
            slot.taps[stage] = as_float(local(tensor)).clone()
        elif self._finish is not None and slot.fold.operations == 0:
            slot.handed, slot.by_tap, slot.formula = as_float(local(tensor)), True, None
            self._finish(slot)

    def call(self, slot: Slot, name: str, values: Mapping[str, Any] | None) -> None:
        """A method of a parameter itself is called next, see `optgeom.hooks.calls`."""
        expected, effect = slot.expected, None
        if values is not None and all(_readable(slot.weights, v) for v in values.values()):
            effect = effect_of(name, values, slot.weights, slot.holds)
        if slot.finished or expected is None:
            slot.rewritten = True
        elif effect is None:
            slot.fold.interrupt(f"Tensor.{name}_", slot.weights)
        else:
            slot.fold.apply(effect, slot.weights, None if effect.term is None else expected.origin)

    def called(self, slot: Slot) -> None:
        """It has run; a slot whose step is complete is finished."""
        expected = slot.expected
        if expected is None or slot.finished or self._finish is None:
            return
        if slot.fold.operations == len(expected.history):
            self._finish(slot)

    def before(self, func: OpOverload, names: tuple[str, ...], args: Any, kwargs: Any) -> None:
        """Called before an operation that writes.

        Args:
            func: the operation.
            names: of its arguments that it writes to.
            args: its positional operands.
            kwargs: its keyword operands.
        """
        if (
            names == ("self",)
            and self._is_far(args[0])
            and not self._origins.concern((*args, *kwargs.values()), base_name(func))
        ):
            return
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
                        self._write(func, entry, target, alone=False)

    def after(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Called after an operation that writes nothing: what it made may stem from the weights."""
        name = func._schema.name
        if name in SHAPE_ONLY:
            return
        self.saw_svd = self.saw_svd or name == SVD
        by, operands = base_name(func), (*args, *kwargs.values())
        if not self._origins.concern(operands, by):
            return
        if isinstance(result, Tensor):
            self._origins.spread(_tensors(operands), result, by)
        elif isinstance(result, (list, tuple)):
            values = arguments(func, args, kwargs)
            foreach = is_foreach(func)
            for index, made in enumerate(result):
                if isinstance(made, Tensor):
                    entry = at(values, index, len(result)) if foreach else values
                    self._origins.spread(_tensors(entry.values()), made, by)

    def _is_far(self, written: Any) -> bool:
        """Whether plain tensors are written to that share no memory with what is watched."""
        if isinstance(written, (list, tuple)):
            return all(map(self._is_far, written))
        return (
            type(written) in PLAIN
            and written.layout == torch.strided
            and written.untyped_storage().data_ptr() not in self._storages
        )

    def _write(
        self, func: OpOverload, values: Mapping[str, Any], written: Tensor, alone: bool = True
    ) -> None:
        target = unwrap(written)
        if target is None or target.untyped_storage().data_ptr() not in self._storages:
            self._elsewhere(func, values, written)
            return
        slot = self._find(target)
        if slot is not None:
            self._touch(slot, alone)
            if not slot.finished:
                self._fold(func, values, written, target, slot)
            return
        span = span_of(target)
        for other, slot in self._spans:
            if span.overlaps(other):
                self._touch(slot, alone)
                if not slot.finished:
                    slot.fold.interrupt(func._schema.name + " through a view", slot.weights)
                    self._count_held(slot, slot.weights.nbytes)
        self._rescue(span)
        self._elsewhere(func, values, written)

    def _touch(self, slot: Slot, alone: bool) -> None:
        """A slot's weights are written to next: others may be done, or this one was not."""
        if slot.finished:
            slot.rewritten = slot.rewritten or not slot.by_tap
            return
        if slot is self._last:
            return
        slot.returned = slot.returned or id(slot) in self._open
        self._last = slot
        if alone and self._finish is not None:
            full = sum(self._held_bytes.values()) > IN_FLIGHT
            for done in [s for s in self._open.values() if s is not slot and not s.late]:
                if (full or done.early) and (done.fold.terms or done.fold.base is not None):
                    self._finish(done)
                    self._let_go(done)
        self._open[id(slot)] = slot

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
            operands = {k: _plain(v) if isinstance(v, Tensor) else v for k, v in values.items()}
            effect = effect_of(base_name(func), operands, target, slot.holds)
        if effect is None:
            slot.fold.interrupt(func._schema.name, target)
            self._count_held(slot, target.nbytes)
            return
        if written is slot.parameter and "out" not in values and not is_foreach(func):
            slot.calls += 1
        others = [v for name, v in values.items() if name not in ("self", "out")]
        slot.fold.apply(effect, target, self._origins.of(_tensors(others), slot))
        if effect.term is not None:
            self._hold(effect.term, slot)

    def _hold(self, term: Term, slot: Slot) -> None:
        """Remember whose memory a term is made of, lest it changes before it is wanted."""
        for operand in term.tensors:
            plain = unwrap(operand)
            span = None if plain is None else span_of(plain)
            if plain is None or span is None or self._is_watched(span):
                term.fix(slot.weights)
                self._count_held(slot, slot.weights.nbytes)
                return
            self._held.setdefault(span.storage, []).append((span, term, slot))
            self._storages.add(span.storage)
            self._count_held(slot, plain.nbytes)

    def _is_watched(self, span: Span) -> bool:
        """Whether memory holds watched weights, which this step writes to."""
        return any(span.overlaps(other) for other, _ in self._spans)

    def _count_held(self, slot: Slot, count: int) -> None:
        self._held_bytes[id(slot)] = self._held_bytes.get(id(slot), 0) + count

    def _let_go(self, slot: Slot) -> None:
        self._open.pop(id(slot), None)
        self._held_bytes.pop(id(slot), None)
        for storage in [
            storage
            for storage, entries in self._held.items()
            if any(entry[2] is slot for entry in entries)
        ]:
            kept = [entry for entry in self._held[storage] if entry[2] is not slot]
            if kept:
                self._held[storage] = kept
            else:
                del self._held[storage]

    def _rescue(self, span: Span) -> None:
        """Copy what the next operation overwrites: gradients, and operands that are still held."""
        for entry in [entry for entry in self._gradients if span.overlaps(entry[0])]:
            slot = entry[1]
            slot.gradient = None if slot.gradient is None else slot.gradient.clone()
            slot.gradient_lost = True
            self._gradients.remove(entry)
        held = self._held.get(span.storage, [])
        for _, term, slot in [entry for entry in held if span.overlaps(entry[0])]:
            term.fix(slot.weights)
        held[:] = [entry for entry in held if not span.overlaps(entry[0])]

    def _elsewhere(self, func: OpOverload, values: Mapping[str, Any], written: Tensor) -> None:
        """Something else than weights is written to: it may come to stem from them."""
        if func._schema.name in OVERWRITING:
            self._origins.forget(written)
            values = {name: value for name, value in values.items() if name != "self"}
        self._origins.spread(_tensors(values.values()), written, base_name(func))


def _find(starts: Mapping[int, Sequence[tuple[Address, Slot]]], plain: Tensor) -> Slot | None:
    """The slot whose weights a plain tensor is: the same memory in the same geometry."""
    for here, slot in starts.get(plain.data_ptr(), ()):
        if address_of(plain) == here:
            return slot
    return None


def _plain(operand: Tensor) -> Tensor | None:
    return operand if operand.layout == torch.sparse_coo else unwrap(operand)


def _readable(written: Tensor, value: object) -> bool:
    """Whether an operand's entries are at hand, and are those that belong to the target's."""
    if not isinstance(value, Tensor):
        return True
    if type(value) is Tensor and value.layout == torch.sparse_coo:
        return True
    return unwrap(value) is not None and same_layout(written, value)


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
