"""Which recorded matrices enter a rule at the captured steps of a layer, and what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.counterfactual.rule import Rule
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.store import Trace

NO_MOMENTUM = "the momentum is missing: a gradient stands for it"
NO_LOOK_AHEAD = "Nesterov's look-ahead is missing: the momentum itself enters"
IN_PIECES = "a piece of a fused parameter is taken as a matrix of its own"

_ADAM = frozenset({"Adam", "AdamW", "NAdam", "RAdam"})


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a run's own optimizer mixes the gradient into its momentum.

    Attributes:
        beta: The momentum's decay.
        averages: M = b M + (1-b) G, or else M = b M + G.
    """

    beta: float
    averages: bool

    def look_ahead(self, momentum: Tensor, gradient: Tensor) -> Tensor:
        """B M + (1-b) G, or b M + G; (m, n) float32."""
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
        """The stage in words."""
        return "momentum and gradient (Nesterov's look-ahead)" if self.mixing else self.stage


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
            gradients = (
                trace.attempts(layer.name, "gradient") if (layer.name, "gradient") in held else {}
            )
            if mixing is None or not attempts.items() <= gradients.items():
                mixing = None
                caveats.append(NO_LOOK_AHEAD)
        return Entering(stage, attempts, mixing, tuple(caveats))
    return None


def group_of(info: RunInfo, layer: LayerInfo) -> tuple[OptimizerInfo | None, Mapping[str, Any]]:
    """The optimizer that moves a layer, and the settings of its group."""
    for one in info.optimizers:
        if one.name == layer.optimizer:
            groups = one.groups[layer.group : layer.group + 1]
            return one, groups[0] if groups else {}
    return None, {}


def _mixing(info: RunInfo, layer: LayerInfo) -> Mixing | None:
    """What the settings say of the momentum; None where they leave it open."""
    optimizer, group = group_of(info, layer)
    name = "" if optimizer is None else optimizer.type.rpartition(".")[2]
    betas, beta = group.get("betas"), group.get("momentum")
    if group.get("algorithm") == "adamw" or name in _ADAM:
        return Mixing(float(betas[0]), True) if isinstance(betas, list | tuple) else None
    if not isinstance(beta, int | float):
        return None
    form = group.get("momentum_form")
    if form in ("ema", "heavy_ball"):
        return Mixing(float(beta), form == "ema")
    if optimizer is not None and optimizer.type.startswith("torch.optim."):
        if name == "Muon":
            return Mixing(float(beta), True)
        if name == "SGD" and not group.get("dampening"):
            return Mixing(float(beta), False)
    return None
