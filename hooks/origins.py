"""Which tensors of a step were made from the watched weights, and how.

Weight decay inside the gradient or the direction is part of the update, not a decay of its own;
so whatever is made from a weight is followed until the step ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from weakref import ref

from torch import Tensor

from optgeom.hooks.address import unwrap
from optgeom.hooks.fold import Origin
from optgeom.hooks.slot import Slot

Find = Callable[[Tensor], Slot | None]


class Origins:
    """What was made from which weights; knows only tensors that are still alive."""

    def __init__(self, slots: Iterable[Slot], find: Find) -> None:
        """Begin a step, in which nothing is made from the weights yet.

        Args:
            slots: whose weights are followed.
            find: the slot of which a plain tensor is the weights, or None.
        """
        self._find = find
        self._sizes = {slot.parameter.numel() for slot in slots}
        self._sizes |= {slot.weights.numel() for slot in slots}
        self._stems: dict[int, tuple[ref[Tensor], Slot, Origin]] = {}
        self._measures: dict[int, tuple[ref[Tensor], Slot]] = {}

    def spread(self, operands: Iterable[Tensor], result: Tensor) -> None:
        """Note that `result` is made from `operands`, if one of them stems from weights."""
        size = result.numel()
        if not result.is_floating_point() or (size not in self._sizes and size != 1):
            return
        operands = tuple(operands)
        if size == 1:
            # a norm is no part of a direction, but weights scaled by it are projected, not decayed
            for slot in self._measured(operands):
                self._measures[id(result)] = (ref(result), slot)
                return
        for slot, origin in self._made_from(operands):
            if size in (slot.parameter.numel(), slot.weights.numel()):
                self._stems[id(result)] = (ref(result), slot, origin)
                return

    def forget(self, tensor: Tensor) -> None:
        """Note that nothing is left of what a tensor held."""
        self._stems.pop(id(tensor), None)
        self._measures.pop(id(tensor), None)

    def of(self, operands: Iterable[Tensor], slot: Slot) -> Origin | None:
        """How operands of a write to a slot were made from that slot's own weights."""
        made = self._made_from(tuple(operands))
        return next((origin for own, origin in made if own is slot), None)

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

    def _made_from(self, operands: tuple[Tensor, ...]) -> Iterator[tuple[Slot, Origin]]:
        for operand in operands:
            if operand.numel() not in self._sizes:
                continue
            known = self._stems.get(id(operand))
            if known is not None and known[0]() is operand:
                yield known[1], known[2]
                continue
            plain = unwrap(operand)
            slot = None if plain is None else self._find(plain)
            if slot is not None:
                with_gradient = any(_is_gradient(other, slot) for other in operands)
                yield slot, "in_gradient" if with_gradient else "in_direction"


def _is_gradient(operand: Tensor, slot: Slot) -> bool:
    plain = unwrap(operand)
    return plain is not None and plain.data_ptr() == slot.gradient_pointer
