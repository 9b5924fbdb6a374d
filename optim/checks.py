"""Validation of settings: the rule, the value received, the way out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from torch import Tensor

__all__ = [
    "check_at_least",
    "check_choice",
    "check_flag",
    "check_fraction",
    "check_known",
    "check_lr",
    "check_positive",
    "check_rate",
]


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {value!r}")
    return float(value)


def check_lr(value: object) -> None:
    """A finite number of at least zero, or a one-element tensor (not read: that would sync)."""
    if not isinstance(value, Tensor):
        check_rate("lr", value)
    elif value.numel() != 1:
        raise ValueError(f"lr as a tensor must have one element; got {value.numel()}")


def check_rate(name: str, value: object) -> None:
    """A finite number of at least zero."""
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{name} must be finite and at least 0; got {value!r}")


def check_fraction(name: str, value: object) -> None:
    """A number in [0, 1)."""
    if not 0.0 <= _number(name, value) < 1.0:
        raise ValueError(f"{name} must lie in [0, 1); got {value!r}")


def check_positive(name: str, value: object) -> None:
    """A finite number above zero."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"{name} must be finite and above 0; got {value!r}")


def check_at_least(name: str, value: object, *, least: int) -> None:
    """An int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")


def check_flag(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def check_choice(name: str, value: object, *, choices: Iterable[str]) -> None:
    """One of ``choices``."""
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def check_known(given: Iterable[str], *, known: Iterable[str], owner: str) -> None:
    """Every name in ``given`` is one of ``known``; else the nearest is named.

    Raises:
        TypeError: As Python does for an unknown keyword argument.
    """
    names = tuple(known)
    for name in given:
        if name in names:
            continue
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        way_out = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise TypeError(f"{owner} has no setting {name!r}; {way_out}")


def check_gradient(parameter: Tensor) -> None:
    """A dense gradient that is placed as its parameter, or none."""
    grad = parameter.grad
    if grad is None:
        return
    if grad.is_sparse:
        raise ValueError(
            f"sparse gradients are not supported (parameter of shape {tuple(parameter.shape)}): "
            "build the embedding with sparse=False"
        )
    placed = getattr(parameter, "placements", None)
    if placed is not None and getattr(grad, "placements", None) != placed:
        raise ValueError(
            f"a gradient is placed as its parameter of shape {tuple(parameter.shape)}, {placed}; "
            f"got {getattr(grad, 'placements', 'a plain tensor')}: redistribute it before the step"
        )
