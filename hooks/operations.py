"""What an in-place operation does to its target: `target <- scale * target + term`.

Pure functions of the operands, called before the operation runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from optgeom.hooks.terms import Term, precision

Same = Callable[[Any], bool]
"""Whether an operand is the target itself."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One understood operation on one target."""

    scale: float
    term: Term | None
    operands: tuple[Any, ...] = ()
    toward: bool = False  # the term is made from the target itself (lerp_)


def arguments(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The operands by their names in the operation's schema, defaults left out.

    >>> import torch
    >>> arguments(torch.ops.aten.add_.Tensor, (1, 2), {"alpha": 3})
    {'self': 1, 'other': 2, 'alpha': 3}
    """
    values = dict(zip(_names(func), args, strict=False))
    return values | dict(kwargs) if kwargs else values


@cache
def _names(func: OpOverload) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def at(values: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    """The operands of one entry of a `_foreach_` operation.

    Args:
        values: the operands by name, lists where there is one per entry.
        index: of the entry.
        count: how many entries the operation has.
    """
    return {
        name: value[index]
        if isinstance(value, (list, tuple))
        or (name == "scalars" and isinstance(value, Tensor) and value.numel() == count)
        else value
        for name, value in values.items()
    }


def _number(value: Any) -> float | None:
    """A scalar operand as a float; None for what has more than one entry."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value)


def _first(values: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    for name in names:
        if name in values:
            return values[name]
    return default


def _add(values: Mapping[str, Any], same: Same, sign: float) -> Effect | None:
    other = _first(values, "other", "scalar", "scalars")
    alpha = _number(values.get("alpha", 1.0))
    if alpha is None:
        return None
    if same(other):
        return Effect(1.0 + sign * alpha, None)
    return Effect(1.0, Term("sum", (other,), sign * alpha), (other,))


def _scale(values: Mapping[str, Any], same: Same, divide: bool) -> Effect | None:
    other = _first(values, "other", "scalar", "scalars")
    number = None if same(other) or values.get("rounding_mode") else _number(other)
    if number is None or (divide and number == 0.0):
        return None
    return Effect(1.0 / number if divide else number, None)


def _addc(values: Mapping[str, Any], same: Same, divide: bool) -> Effect | None:
    first, second = values["tensor1"], values["tensor2"]
    factor = _number(_first(values, "value", "scalar", "scalars", default=1.0))
    if factor is None or same(first) or same(second):
        return None
    term = Term("quotient" if divide else "product", (first, second), factor)
    return Effect(1.0, term, (first, second))


def _lerp(values: Mapping[str, Any], target: Tensor, same: Same) -> Effect | None:
    end = _first(values, "end", "tensors1")
    weight = _number(_first(values, "weight", "weights", "scalars"))
    if weight is None or same(end):
        return None
    # a pull toward `end` is no decay: written as what it adds, not as a scale of the weights; and
    # computed at once, since the weights that it is made from are about to change
    wide = precision(target)
    shift = end.detach().to(wide) - target.detach().to(wide)
    return Effect(1.0, Term("sum", (shift,), weight), (end,), toward=True)


_RULES: Mapping[str, Callable[[Mapping[str, Any], Tensor, Same], Effect | None]] = {
    "add": lambda v, t, s: _add(v, s, 1.0),
    "sub": lambda v, t, s: _add(v, s, -1.0),
    "mul": lambda v, t, s: _scale(v, s, divide=False),
    "div": lambda v, t, s: _scale(v, s, divide=True),
    "addcdiv": lambda v, t, s: _addc(v, s, divide=True),
    "addcmul": lambda v, t, s: _addc(v, s, divide=False),
    "lerp": _lerp,
}


@cache
def base_name(func: OpOverload) -> str:
    """`add` for `aten::add_`, `aten::_foreach_add_` and `aten::add.out`.

    >>> import torch
    >>> base_name(torch.ops.aten._foreach_addcdiv_.Scalar)
    'addcdiv'
    """
    return func._schema.name.removeprefix("aten::").removeprefix("_foreach_").removesuffix("_")


@cache
def is_foreach(func: OpOverload) -> bool:
    """Whether an operation takes lists and acts on one entry after the other."""
    return func._schema.name.startswith("aten::_foreach_")


def scale_operand(func: OpOverload, values: Mapping[str, Any]) -> Any:
    """What a target is multiplied with or divided by; None for other operations."""
    if base_name(func) not in ("mul", "div"):
        return None
    return _first(values, "other", "scalar", "scalars")


def effect_of(name: str, values: Mapping[str, Any], target: Tensor, same: Same) -> Effect | None:
    """What an operation will do to `target`, or None where it is not understood.

    Args:
        name: of the operation, as `base_name` has it.
        values: its operands by name, of one entry where it is a `_foreach_` form; none where they
            are not known.
        target: the tensor that is written, before the operation.
        same: whether an operand is the target itself.

    Returns:
        scale and term, which holds the operation's own operands.
    """
    rule = _RULES.get(name)
    if rule is None or not values:
        return None
    if "out" in values and not same(values.get("self")):
        return None  # writes a function of another tensor over the weights
    effect = rule(values, target, same)
    # weights times zero are gone, and with them what the step began with
    if effect is not None and (effect.scale == 0.0 or not math.isfinite(effect.scale)):
        return None
    return effect
