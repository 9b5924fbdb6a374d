"""In-place methods that an optimizer calls on the parameters themselves, seen without a mode.

A dispatch mode sees every operation of a step, ten or twenty for each that writes to a weight. Once
one capture under it has shown that an optimizer writes to its weights by nothing but such calls
(`p.mul_(...)`, `p.addcdiv_(...)`), attributes of the parameter objects that shadow those methods
while the step runs see the same operands, and cost nothing at all other operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from optgeom.hooks.slot import Slot

METHODS: Mapping[str, tuple[str, ...]] = {
    "add_": ("other",),
    "sub_": ("other",),
    "mul_": ("other",),
    "div_": ("other",),
    "addcdiv_": ("tensor1", "tensor2"),
    "addcmul_": ("tensor1", "tensor2"),
    "lerp_": ("end", "weight"),
}
"""Methods that are seen, and the names of their positional operands in the operation's schema."""

_PLAIN = {name: getattr(Tensor, name) for name in METHODS}


class Told(Protocol):
    """What wants to know of the calls."""

    slots: list[Slot]

    def call(self, slot: Slot, name: str, values: Mapping[str, Any] | None) -> None:
        """A method is about to run; `values` are its operands, None where they are unusual."""

    def called(self, slot: Slot) -> None:
        """It has run."""


@contextmanager
def intercepted(told: Told, on_error: Callable[[Exception], None]) -> Iterator[None]:
    """Tell of every call of `METHODS` on the parameters that are read, until the block ends.

    Args:
        told: of the calls; its parameters are plain tensors.
        on_error: called with what it raises; the method runs all the same.
    """
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for slot in told.slots:
            own = slot.parameter.__dict__
            known = {name: own[name] for name in METHODS if name in own}  # another recorder's
            before.append((own, known))
            for name, method in _PLAIN.items():
                inner = known.get(name, method)
                own[name] = partial(_call, slot, name, inner, name in known, told, on_error)
        yield
    finally:
        try:
            _give_back(before)
        except BaseException:  # Ctrl-C, or a signal's handler, came in between
            _give_back(before)
            raise


def _give_back(before: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for own, known in reversed(before):
        for name in METHODS:
            own.pop(name, None)
        own.update(known)


def _call(
    slot: Slot,
    name: str,
    method: Callable[..., Any],
    is_bound: bool,
    told: Told,
    on_error: Callable[[Exception], None],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    values = _operands(name, args, kwargs)
    _harmless(on_error, told.call, slot, name.removesuffix("_"), values)
    result = method(*args, **kwargs) if is_bound else method(slot.parameter, *args, **kwargs)
    _harmless(on_error, told.called, slot)
    return result


def _operands(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any] | None:
    names = METHODS[name]
    if len(args) == len(names):  # nearly always, and then there is nothing to look for
        return dict(zip(names, args, strict=True)) | kwargs
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return given if len(args) <= len(names) and given.keys() >= set(names) else None


def _harmless(on_error: Callable[[Exception], None], what: Callable[..., None], *args: Any) -> None:
    try:
        if torch.is_grad_enabled():
            with torch.no_grad():
                what(*args)
        else:
            what(*args)
    except Exception as error:  # noqa: BLE001 -- this is called from inside the optimizer's step
        on_error(error)
