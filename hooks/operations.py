"""What an in-place operation does to its target: `target <- scale * target + shift`.

Pure functions of the operands, called before the operation runs. The operands are live state of
the optimizer, so they are widened to float32 before any arithmetic and never kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Same = Callable[[Any], bool]
"""Whether an operand is the target itself."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One understood operation on one target."""

    scale: float
    shift: Tensor | None
    operands: tuple[Any, ...] = ()
    toward: bool = False  # the shift is made from the target itself (lerp_)


def arguments(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The operands by their names in the operation's schema, defaults left out.

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


def _wide(value: Any, target: Tensor) -> Tensor:
    """An addend as a tensor of the target's shape in the precision of the fold."""
    dtype = torch.float64 if target.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        return torch.full(target.shape, float(value), dtype=dtype, device=target.device)
    return value.detach().to(device=target.device, dtype=dtype).expand(target.shape)


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _add(values: Mapping[str, Any], target: Tensor, same: Same, sign: float) -> Effect | None:
    other = _first(values, "other", "scalar", "scalars")
    alpha = _number(values.get("alpha", 1.0))
    if alpha is None:
        return None
    if same(other):
        return Effect(1.0 + sign * alpha, None)
    return Effect(1.0, _wide(other, target) * (sign * alpha), (other,))


def _scale(values: Mapping[str, Any], same: Same, divide: bool) -> Effect | None:
    other = _first(values, "other", "scalar", "scalars")
    number = None if same(other) or values.get("rounding_mode") else _number(other)
    if number is None or (divide and number == 0.0):
        return None
    return Effect(1.0 / number if divide else number, None)


def _addc(values: Mapping[str, Any], target: Tensor, same: Same, divide: bool) -> Effect | None:
    first, second = values["tensor1"], values["tensor2"]
    factor = _number(_first(values, "value", "scalar", "scalars") if len(values) > 3 else 1.0)
    if factor is None or same(first) or same(second):
        return None
    left, right = _wide(first, target), _wide(second, target)
    shift = (left / right if divide else left * right) * factor
    return Effect(1.0, shift, (first, second))


def _lerp(values: Mapping[str, Any], target: Tensor, same: Same) -> Effect | None:
    end = _first(values, "end", "tensors1")
    weight = _number(_first(values, "weight", "weights", "scalars"))
    if weight is None or same(end):
        return None
    # a pull toward `end` is no decay: written as what it adds, not as a scale of the weights
    shift = (_wide(end, target) - _wide(target, target)) * weight
    return Effect(1.0, shift, (end,), toward=True)


_RULES: Mapping[str, Callable[[Mapping[str, Any], Tensor, Same], Effect | None]] = {
    "add": lambda v, t, s: _add(v, t, s, 1.0),
    "sub": lambda v, t, s: _add(v, t, s, -1.0),
    "mul": lambda v, t, s: _scale(v, s, divide=False),
    "div": lambda v, t, s: _scale(v, s, divide=True),
    "addcdiv": lambda v, t, s: _addc(v, t, s, divide=True),
    "addcmul": lambda v, t, s: _addc(v, t, s, divide=False),
    "lerp": _lerp,
}


@cache
def base_name(func: OpOverload) -> str:
    """`add` for `aten::add_`, `aten::_foreach_add_` and `aten::add.out`.

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


def effect_of(
    func: OpOverload, values: Mapping[str, Any], target: Tensor, same: Same
) -> Effect | None:
    """What an operation will do to `target`, or None where it is not understood.

    Args:
        func: the operation.
        values: its operands by name, of one entry where it is a `_foreach_` form; none where they
            are not known.
        target: the tensor that is written, before the operation.
        same: whether an operand is the target itself.

    Returns:
        scale and shift (target's shape; float32, float64 for float64 targets), both exact to the
        rounding of that precision.
    """
    rule = _RULES.get(base_name(func))
    if rule is None or not values:
        return None
    if "out" in values and not same(values.get("self")):
        return None  # writes a function of another tensor over the weights
    effect = rule(values, target, same)
    # weights times zero are gone, and with them what the step began with
    if effect is not None and (effect.scale == 0.0 or not math.isfinite(effect.scale)):
        return None
    return effect
