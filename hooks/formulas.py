"""Updates of torch's own fused optimizers from their state.

A fused step is one opaque operation. For four rules of torch.optim the update is a formula of the
state that the step leaves behind, exact to rounding; what is recorded is compared with sampled
weights like any other reading. (A compiled step is left to differences: it computes the bias
corrections in float32, which moves the update by 1e-5 of its size.) Where the state is narrower
than the arithmetic that made it (bfloat16 weights), or the rule reads the weights, the formula is
evaluated before the step, from what the step will read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from optgeom.hooks.fold import is_narrow, narrow_counts
from optgeom.hooks.layers import as_float
from optgeom.hooks.samples import pick
from optgeom.hooks.sharding import local

State = Mapping[str, Tensor]

ROUNDINGS = 4.0
"""How far, in units of the largest sample's rounding, a state may be from what was expected."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One published update rule, for a group of settings.

    Attributes:
        advance: (state, gradient, settings) -> the state after the step.
        direction: (state after the step, gradient, settings) -> the update.
        reads_gradient: whether `direction` does.
    """

    advance: Callable[[State, Tensor, Mapping[str, Any]], State]
    direction: Callable[[State, Tensor, Mapping[str, Any]], Tensor]
    reads_gradient: Callable[[Mapping[str, Any]], bool]


def _adam_advance(state: State, gradient: Tensor, group: Mapping[str, Any]) -> State:
    beta1, beta2 = group["betas"]
    zero = torch.zeros_like(gradient)
    first = state.get("exp_avg", zero).lerp(gradient, 1 - beta1)
    second = state.get("exp_avg_sq", zero) * beta2 + gradient.square() * (1 - beta2)
    after = {"step": _step(state) + 1, "exp_avg": first, "exp_avg_sq": second}
    if group["amsgrad"]:
        after["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", zero), second)
    return after


def _adam_direction(state: State, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    step = float(state["step"])
    second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    denominator = (second.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
    update: Tensor = (state["exp_avg"] / denominator).div_(1 - beta1**step)
    return update


def _sgd_advance(state: State, gradient: Tensor, group: Mapping[str, Any]) -> State:
    before = state.get("momentum_buffer")
    if before is None:
        return {"momentum_buffer": gradient}
    return {"momentum_buffer": before * group["momentum"] + gradient * (1 - group["dampening"])}


def _sgd_direction(state: State, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
    if not group["momentum"]:
        return gradient.clone()
    buffer = state["momentum_buffer"]
    return gradient + buffer * group["momentum"] if group["nesterov"] else buffer.clone()


def _adagrad_advance(state: State, gradient: Tensor, group: Mapping[str, Any]) -> State:
    return {"step": _step(state) + 1, "sum": state["sum"] + gradient.square()}


def _adagrad_direction(state: State, gradient: Tensor, group: Mapping[str, Any]) -> Tensor:
    slower = 1 + (float(state["step"]) - 1) * group["lr_decay"]
    return (gradient / state["sum"].sqrt().add_(group["eps"])).div_(slower)


def _step(state: State) -> Tensor:
    return state.get("step", torch.zeros(()))


_ADAM = Rule(_adam_advance, _adam_direction, lambda group: False)
_RULES: dict[type, Rule] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.SGD: Rule(
        _sgd_advance, _sgd_direction, lambda group: not group["momentum"] or group["nesterov"]
    ),
    torch.optim.Adagrad: Rule(_adagrad_advance, _adagrad_direction, lambda group: True),
}


@dataclass(slots=True, eq=False)
class Formula:
    """The rule of one parameter at one step.

    Attributes:
        rule: the rule.
        group: the settings at step entry, without the parameters.
        state: the parameter's own, live.
        weights: the rank's part of the parameter, live.
        times: the rate over the divisor of the row: 1, or 0 where the rate is 0.
        is_ahead: whether the update is computed before the step.
        ready: that update.
        counts: what rounding will hold back of it, where the weights are narrow.
        agrees: whether the step left the state behind that the rule says, where `is_ahead`: narrow
            weights alone would not show it.
        expected: samples of that state.
    """

    rule: Rule
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    weights: Tensor
    times: float
    is_ahead: bool
    ready: Tensor | None = None
    counts: Tensor | None = None
    agrees: bool = True
    expected: dict[str, Tensor] = field(default_factory=dict)

    @property
    def decay_form(self) -> Literal["none", "decoupled", "in_gradient"]:
        """Where the rule puts weight decay."""
        if not self.group["weight_decay"]:
            return "none"
        return "decoupled" if self.group.get("decoupled_weight_decay") else "in_gradient"

    @property
    def decay(self) -> float:
        """1 minus what the rule multiplies the weights with."""
        if self.decay_form != "decoupled":
            return 0.0
        return float(self.group["lr"]) * float(self.group["weight_decay"])

    def prepare(self, gradient: Tensor | None) -> None:
        """Compute the update before the step where it cannot be had after it.

        Args:
            gradient: this rank's part, in any dtype; None: the step passes the parameter over.
        """
        self.ready = None
        if not self.is_ahead or gradient is None:
            return
        wide = self._signed(as_float(gradient))
        if self.decay_form == "in_gradient":
            wide = wide + as_float(self.weights) * float(self.group["weight_decay"])
        after = self.rule.advance(self._wide_state(), wide, self.group)
        self.expected = {name: pick(value).clone() for name, value in after.items() if value.ndim}
        self.ready = self.rule.direction(after, wide, self.group)
        lr = float(self.group["lr"])
        self.counts = narrow_counts(self.weights, self.ready, lr=lr, decay=self.decay)

    def update(self, gradient: Tensor | None) -> Tensor | None:
        """The update, after the step, in the precision of the fold; None where there was none.

        Args:
            gradient: this rank's part, as the step found it.
        """
        if gradient is None:
            return None
        update = self.ready
        if self.is_ahead:
            self.agrees = self._left_behind()
        if update is None:
            wide = self._signed(as_float(gradient)) if self.reads_gradient else gradient
            update = self.rule.direction(self._wide_state(), wide, self.group)
        self.ready = None
        return update if self.times == 1.0 else update * self.times

    @property
    def reads_gradient(self) -> bool:
        """Whether the update is made from the gradient itself and not from the state alone."""
        return self.rule.reads_gradient(self.group)

    def _left_behind(self) -> bool:
        """Whether the state is what was expected, to the rounding of its own dtype."""
        for name, wanted in self.expected.items():
            stored = self.state.get(name)
            if stored is None:
                continue  # a plain SGD keeps none
            found = pick(local(stored))
            bound = ROUNDINGS * torch.finfo(found.dtype).eps * wanted.abs().amax()
            if not bool(((found - wanted).abs() <= bound).all()):
                return False
        return True

    def _signed(self, gradient: Tensor) -> Tensor:
        return -gradient if self.group["maximize"] else gradient

    def _wide_state(self) -> State:
        return {
            name: value if name == "step" else as_float(local(value))
            for name, value in self.state.items()
            if isinstance(value, Tensor)
        }


def formula_of(
    optimizer: Any, parameter: Tensor, group: Mapping[str, Any], *, divisor: float, scaled: bool
) -> Formula | None:
    """The formula of a parameter's next step, if its optimizer's rule is known.

    Args:
        optimizer: of torch.optim itself; a subclass may have another rule.
        parameter: one of its own.
        group: that holds it.
        divisor: what the row divides by.
        scaled: whether the gradients are still multiplied with a loss scale.

    Returns:
        None where no formula is exact: another class, a step that is not fused, or gradients that
        the step unscales.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None or not group.get("fused"):
        return None
    weights = local(parameter.detach())
    group = {name: value for name, value in group.items() if name != "params"}
    formula = Formula(
        rule,
        group,
        _Live(optimizer, parameter),
        weights,
        times=float(group["lr"]) / divisor,
        is_ahead=is_narrow(weights),
    )
    if formula.reads_gradient and formula.decay_form == "in_gradient":
        formula.is_ahead = True
    if scaled and (formula.reads_gradient or formula.is_ahead):
        return None
    return formula


class _Live(Mapping[str, Any]):
    """The state of a parameter as it is now: a first step has none before it."""

    def __init__(self, optimizer: Any, parameter: Tensor) -> None:
        self._optimizer, self._parameter = optimizer, parameter

    def _state(self) -> Mapping[str, Any]:
        states: Mapping[Tensor, Mapping[str, Any]] = self._optimizer.state
        return states.get(self._parameter, {})

    def __getitem__(self, name: str) -> Any:
        return self._state()[name]

    def __iter__(self) -> Any:
        return iter(self._state())

    def __len__(self) -> int:
        return len(self._state())
