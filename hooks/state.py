"""Reading what an optimizer keeps between steps: the momentum buffer, by known names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from optgeom.hooks.errors import WatchError

StateReader = Callable[[Any, Tensor], Tensor | None]

MOMENTUM_NAMES = ("momentum", "momentum_buffer", "exp_avg", "moment1", "mu")
"""State keys of a first moment: ours; torch SGD and Muon; the Adam family; others."""

SECOND_MOMENT_NAMES = (
    "second_moment",
    "second_momentum_buffer",
    "exp_avg_sq",
    "square_avg",
    "sum",
    "moment2",
    "nu",
)
"""State keys of a second moment: ours; the released NorMuon; the Adam family; others of torch."""

_readers: dict[type, StateReader] = {}


def register_state_reader(optimizer_class: type, function: StateReader) -> None:
    """Tell the capture where an optimizer class keeps its momentum.

    Args:
        optimizer_class: instances of it and of its subclasses use the function.
        function: (optimizer, parameter) -> the momentum, of the parameter's shape, or None.

    Raises:
        WatchError: `optimizer_class` is no class or `function` is not callable.
    """
    if not isinstance(optimizer_class, type) or not callable(function):
        raise WatchError(
            "register_state_reader takes a class and a function (optimizer, parameter) -> tensor, "
            f"got {optimizer_class!r} and {function!r}"
        )
    _readers[optimizer_class] = function


def momentum_of(optimizer: Any, parameter: Tensor) -> Tensor | None:
    """The momentum buffer of a parameter; None where none is known.

    Args:
        optimizer: registered, or keeping its state as torch.optim does.
        parameter: one of its parameters.
    """
    for cls in type(optimizer).__mro__:
        if cls in _readers:
            return _readers[cls](optimizer, parameter)
    state = _state_of(optimizer, parameter)
    for name in MOMENTUM_NAMES:
        value = state.get(name)
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return value
    return None


def second_moment_of(optimizer: Any, parameter: Tensor) -> Tensor | None:
    """The second moment of a parameter; None where none is known.

    Args:
        optimizer: keeping its state as torch.optim does.
        parameter: one of its parameters.

    Returns:
        Of the parameter's shape, or with one number per neuron, as NorMuon keeps it.
    """
    state = _state_of(optimizer, parameter)
    for name in SECOND_MOMENT_NAMES:
        value = state.get(name)
        if isinstance(value, Tensor) and value.numel() > 1 and value.ndim == parameter.ndim:
            return value
    return None


def second_moment_steps_of(optimizer: Any, parameter: Tensor) -> int | None:
    """How many steps a per-neuron second moment has been averaging; None where there is none."""
    state = _state_of(optimizer, parameter)
    if "second_moment" not in state or "step" not in state:
        return None
    return int(state["step"])


def _state_of(optimizer: Any, parameter: Tensor) -> dict[str, Any]:
    states = getattr(optimizer, "state", None)
    state = states.get(parameter) if isinstance(states, Mapping) else None
    return state if isinstance(state, dict) else {}
