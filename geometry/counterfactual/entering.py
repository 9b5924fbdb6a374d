"""Which recorded matrices enter a rule at the captured steps of a layer, and what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.counterfactual.rule import Rule
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.store import Trace

NO_MOMENTUM = "the momentum is missing: a gradient stands for it"
NO_LOOK_AHEAD = "Nesterov's look-ahead is missing: the momentum itself enters"
NO_DECAY = (
    "the weight decay that the run adds to its gradients is missing from Nesterov's look-ahead, "
    "for the raw weights are not recorded"
)
HAS_LOOK_AHEAD = "Nesterov's look-ahead is in what the run recorded, and the rule has none"
IN_PIECES = "a piece of a fused parameter is taken as a matrix of its own"

_ADAM = frozenset({"Adam", "AdamW", "NAdam", "RAdam"})


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a run's own optimizer mixes the gradient into its momentum.

    Attributes:
        beta: The momentum's decay.
        averages: M = b M + (1-b) G, or else M = b M + G.
        decay: The weight decay that it adds to the gradient, G + decay W, where that is recorded;
            else 0.
    """

    beta: float
    averages: bool
    decay: float = 0.0

    def look_ahead(self, momentum: Tensor, gradient: Tensor, weight: Tensor | None) -> Tensor:
        """B M + (1-b) G, or b M + G; (m, n) float32.

        Args:
            momentum: M after the step.
            gradient: As the optimizer was handed it.
            weight: W before the step; looked at where `decay` is not 0.
        """
        if self.decay and weight is not None:
            gradient = torch.add(gradient, weight, alpha=self.decay)
        if self.averages:
            return torch.lerp(gradient, momentum, self.beta)
        return torch.add(gradient, momentum, alpha=self.beta)


@dataclass(frozen=True, slots=True)
class Entering:
    """What enters a rule in one layer.

    Attributes:
        stage: The recorded stage.
        attempts: Of each captured step of it, ascending.
        mixing: Where the momentum is mixed with the recorded gradient; else None.
        caveats: What it lacks, a few words each; none where it is what the rule takes.
    """

    stage: str
    attempts: Mapping[int, int]
    mixing: Mixing | None
    caveats: tuple[str, ...]

    @property
    def said(self) -> str:
        """The stages in words."""
        if self.mixing is None:
            return self.stage
        parts = "momentum, gradient and weight" if self.mixing.decay else "momentum and gradient"
        return f"{parts} (Nesterov's look-ahead)"

    @property
    def stages(self) -> tuple[str, ...]:
        """All that is read."""
        if self.mixing is None:
            return (self.stage,)
        return (self.stage, "gradient", *(["weight"] if self.mixing.decay else []))


def entering(trace: Trace, layer: LayerInfo, rule: Rule) -> Entering | None:
    """The most wanted recorded stage of a layer; None where no raw matrix of any is recorded.

    Args:
        trace: The run.
        layer: One of its layers.
        rule: What the matrices enter.
    """
    held = trace.cell_names("updates")
    for stage in rule.inputs:
        if (layer.name, stage) not in held:
            continue
        attempts = dict(sorted(trace.attempts(layer.name, stage).items()))
        caveats: list[str] = []
        mixing = None
        if stage == "gradient":
            caveats.append(NO_MOMENTUM)
        elif stage == "momentum" and rule.looks_ahead:
            mixing = _mixing(trace.info, layer)
            if mixing is None or not _is_with(trace, layer, "gradient", attempts):
                mixing = None
                caveats.append(NO_LOOK_AHEAD)
            elif mixing.decay and not _is_with(trace, layer, "weight", attempts):
                mixing = replace(mixing, decay=0.0)
                caveats.append(NO_DECAY)
        elif stage == "ns_input" and not rule.looks_ahead and _looks_ahead(trace.info, layer):
            caveats.append(HAS_LOOK_AHEAD)
        return Entering(stage, attempts, mixing, tuple(caveats))
    return None


def _is_with(trace: Trace, layer: LayerInfo, stage: str, attempts: Mapping[int, int]) -> bool:
    """Whether another stage is recorded at all of these steps."""
    if (layer.name, stage) not in trace.cell_names("updates"):
        return False
    return attempts.items() <= trace.attempts(layer.name, stage).items()


def group_of(info: RunInfo, layer: LayerInfo) -> tuple[OptimizerInfo | None, Mapping[str, Any]]:
    """The optimizer that moves a layer, and the settings of its group."""
    for one in info.optimizers:
        if one.name == layer.optimizer:
            groups = one.groups[layer.group : layer.group + 1]
            return one, groups[0] if groups else {}
    return None, {}


def _looks_ahead(info: RunInfo, layer: LayerInfo) -> bool:
    return bool(group_of(info, layer)[1].get("nesterov"))


def _mixing(info: RunInfo, layer: LayerInfo) -> Mixing | None:
    """What the settings say of the momentum; None where they leave it open."""
    optimizer, group = group_of(info, layer)
    of_torch = optimizer is not None and optimizer.type.startswith("torch.optim.")
    name = "" if optimizer is None else optimizer.type.rpartition(".")[2]
    betas, beta = group.get("betas"), group.get("momentum")
    if group.get("maximize"):
        return None  # what it averages is the gradient's opposite
    if group.get("algorithm") == "adamw" or name in _ADAM:
        coupled = name != "AdamW" and group.get("algorithm") != "adamw"
        if not isinstance(betas, list | tuple):
            return None
        return Mixing(float(betas[0]), True, _in_gradient(group) if coupled else 0.0)
    if not isinstance(beta, int | float):
        return None
    form = group.get("momentum_form")
    if form in ("ema", "heavy_ball"):
        return Mixing(float(beta), form == "ema")
    if of_torch and name == "Muon":
        return Mixing(float(beta), True)
    if of_torch and name == "SGD" and not group.get("dampening"):
        return Mixing(float(beta), False, _in_gradient(group))
    return None


def _in_gradient(group: Mapping[str, Any]) -> float:
    """The weight decay that is added to the gradient."""
    decay = group.get("weight_decay")
    if group.get("decoupled_weight_decay") or not isinstance(decay, int | float):
        return 0.0
    return float(decay)
