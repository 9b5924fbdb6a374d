"""Which tensors of a step were made from the watched weights, and how.

Weight decay inside the gradient or the direction is part of the update, not a decay of its own;
so whatever is made from a weight is followed until the step ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor

from optgeom.hooks.address import PLAIN, unwrap
from optgeom.hooks.fold import Origin
from optgeom.hooks.slot import Slot

Find = Callable[[Tensor], Slot | None]

Made = Literal["weights", "gradient", "in_gradient", "in_direction"]
"""A copy, view or multiple of the weights; of the gradient; made from both; made from weights and
something else."""

MULTIPLES = frozenset(
    ("neg", "mul", "div", "clone", "_to_copy", "detach", "alias", "view", "_unsafe_view", "expand")
)
"""Operations that make a multiple, a copy or a view of their only operand of several entries."""


class Origins:
    """What was made from which weights; knows only tensors that are still alive."""

    def __init__(self, slots: Iterable[Slot], find: Find) -> None:
        """Begin a step, in which nothing is made from the weights yet.

        Args:
            slots: whose weights are followed.
            find: the slot of which a plain tensor is the weights, or None.
        """
        self._find = find
        self._slots = tuple(slots)
        self._sizes = {slot.parameter.numel() for slot in self._slots}
        self._sizes |= {slot.weights.numel() for slot in self._slots}
        self._weights = {slot.pointer for slot in self._slots}
        self._stems: dict[int, tuple[ref[Tensor], Slot, Made]] = {}
        self._measures: dict[int, tuple[ref[Tensor], Slot]] = {}
        self._gradients: dict[int, Slot] | None = None
        self._decayed: set[int] = set()

    def note_gradients(self) -> None:
        """The gradients were made anew, as by a closure: what is known of the old ones goes."""
        self._gradients = None
        self._decayed.clear()

    def concern(self, operands: Iterable[Any], by: str) -> bool:
        """Whether an operation on these can matter here; False is certain, and cheap to have.

        Args:
            operands: what an operation was given; those that are no tensors do not count.
            by: the operation's name, without prefix and suffix.
        """
        for operand in operands:
            if isinstance(operand, (list, tuple)):
                if self.concern(operand, by):
                    return True
            elif isinstance(operand, Tensor):
                if type(operand) not in PLAIN or operand.layout != torch.strided:
                    return True
                here = operand.data_ptr()
                if here in self._weights or (by in MULTIPLES and here in self._gradient_pointers()):
                    return True
                if id(operand) in self._stems or id(operand) in self._measures:
                    return True
        return False

    def _gradient_pointers(self) -> dict[int, Slot]:
        if self._gradients is None:
            self._gradients = {slot.gradient_pointer: slot for slot in self._slots}
        return self._gradients

    def spread(self, operands: Iterable[Tensor], result: Tensor, by: str = "") -> None:
        """Note that `result` is made from `operands`, if one of them stems from weights.

        Args:
            operands: of an operation.
            result: what it made, or what it wrote to.
            by: the operation's name, without prefix and suffix.
        """
        size = result.numel()
        if not result.is_floating_point() or (size not in self._sizes and size != 1):
            return
        operands = tuple(operands)
        if size == 1:
            # a norm is no part of a direction, but weights scaled by it are projected, not decayed
            for slot in self._measured(operands):
                self._measures[id(result)] = (ref(result), slot)
                return
        for slot, made in self._made_from(operands, is_multiple=by in MULTIPLES):
            if size in (slot.parameter.numel(), slot.weights.numel()):
                self._stems[id(result)] = (ref(result), slot, made)
                if made == "in_gradient" and self._of_gradient(result) is slot:
                    self._decayed.add(id(slot))
                return

    def forget(self, tensor: Tensor) -> None:
        """Note that nothing is left of what a tensor held."""
        self._stems.pop(id(tensor), None)
        self._measures.pop(id(tensor), None)

    def of(self, operands: Iterable[Tensor], slot: Slot) -> Origin | None:
        """How operands of a write to a slot were made from that slot's own weights."""
        for own, made in self._made_from(tuple(operands)):
            if own is slot:
                return "in_gradient" if made == "in_gradient" else "in_direction"
        return None

    def is_measure_of(self, operand: object, slot: Slot) -> bool:
        """Whether a scalar operand was computed from the slot's weights, such as their norm."""
        return isinstance(operand, Tensor) and slot in self._measured((operand,))

    def _measured(self, operands: tuple[Tensor, ...]) -> Iterator[Slot]:
        for operand in operands:
            known = self._measures.get(id(operand))
            if known is not None and known[0]() is operand:
                yield known[1]
        for slot, _ in self._made_from(operands):
            yield slot

    def _made_from(
        self, operands: tuple[Tensor, ...], is_multiple: bool = False
    ) -> Iterator[tuple[Slot, Made]]:
        """Whose weights or gradient an operation's result is made from, and how."""
        wide = [operand for operand in operands if operand.numel() > 1]
        known = [kind for kind in map(self._kind, wide) if kind is not None]
        of_gradient = {id(slot) for slot, made in known if made == "gradient"}
        for slot, made in known:
            if made == "weights" and id(slot) in of_gradient:
                yield slot, "in_gradient"
            elif made == "weights":
                yield slot, "weights" if is_multiple and len(wide) == 1 else "in_direction"
            elif made != "gradient" or (is_multiple and len(wide) == 1):
                yield slot, made

    def _kind(self, operand: Tensor) -> tuple[Slot, Made] | None:
        if operand.numel() not in self._sizes:
            return None
        known = self._stems.get(id(operand))
        if known is not None and known[0]() is operand:
            return known[1], known[2]
        plain = unwrap(operand)
        if plain is None:
            return None
        slot = self._find(plain)
        if slot is not None:
            return slot, "weights"
        slot = self._of_gradient(plain)
        if slot is None:
            return None
        return slot, "in_gradient" if id(slot) in self._decayed else "gradient"

    def _of_gradient(self, tensor: Tensor) -> Slot | None:
        """The slot whose gradient begins where a tensor does."""
        plain = unwrap(tensor)
        if plain is None:
            return None
        return self._gradient_pointers().get(plain.data_ptr())
