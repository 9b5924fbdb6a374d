"""All of torch.optim: for-loop, foreach and fused forms, and the settings that change the rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn, optim

from tests.optimizers import loops
from tests.optimizers.case import DECAY, DECOUPLED, IN_GRADIENT, LR, NONE, Case, Decay, words

Settings = Mapping[str, Any]

CLASSES: Mapping[str, type[optim.Optimizer]] = {
    name: cls
    for name, cls in vars(optim).items()
    if inspect.isclass(cls) and issubclass(cls, optim.Optimizer) and cls is not optim.Optimizer
}

WAYS: Mapping[str, Settings] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}

DECOUPLED_BY_RULE = ("AdamW", "Adafactor", "Muon")
"""Classes whose documented rule multiplies the weights with 1 - lr * weight_decay."""

BASE: Mapping[str, Settings] = {
    "Adadelta": {"lr": 1.0},
    "SGD": {"momentum": 0.9, "dampening": 0.5},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {"lr_decay": 0.1},
}
"""Settings under which a class shows its rule."""

VARIANTS: tuple[Settings, ...] = (
    {},
    {"maximize": True},
    {"amsgrad": True},
    {"nesterov": True, "dampening": 0.0},
    {"weight_decay": DECAY},
    {"weight_decay": DECAY, "decoupled_weight_decay": True},
    {"weight_decay": DECAY, "maximize": True, "amsgrad": True},
    {"weight_decay": 0.0},
    {"lr": torch.tensor(LR)},
    {"capturable": True},
    {"differentiable": True},
)


def decay_of(name: str, way: str, settings: Settings) -> Decay:
    """What torch.optim's documentation says of the weight decay.

    `ASGD` multiplies with 1 - lambd * eta in its for-loop; its foreach form adds lambd times the
    weights to the gradient, which is the same rule in another order.
    """
    if name == "ASGD":
        if way == "foreach" or settings.get("weight_decay"):
            return IN_GRADIENT
        return Decay("decoupled", lambda m: m.group["lambd"] * m.state.get("eta", m.lr))
    takes = signature(name)
    if "weight_decay" not in takes or not settings.get(
        "weight_decay", takes["weight_decay"].default
    ):
        return NONE
    decoupled = name in DECOUPLED_BY_RULE or settings.get("decoupled_weight_decay")
    return DECOUPLED if decoupled else IN_GRADIENT


def _cannot(name: str, way: str, settings: Settings) -> str:
    """How torch.optim's own error begins, where a form does not run on a CPU or on leaves."""
    if "capturable" in settings and way != "fused":
        return "AssertionError: If capturable=True"
    if "differentiable" in settings:
        if way == "fused":
            return "RuntimeError: `fused` does not support `differentiable`"
        if way == "foreach" and name != "SGD":
            return "AssertionError: _foreach ops don't support autograd"
        return "RuntimeError: a leaf Variable that requires grad is being used in an in-place"
    if "lr" in settings and way == "foreach" and name in ("Adam", "AdamW"):
        return "ValueError: lr as a Tensor is not supported for capturable=False"
    return ""


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(CLASSES[name]).parameters


def build(name: str, settings: Settings) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        return CLASSES[name](model.parameters(), **settings)

    return make


def _cases() -> Iterator[Case]:
    for name in CLASSES:
        if name in ("SparseAdam", "LBFGS", "Muon"):
            continue
        takes = signature(name)
        for way, chosen in WAYS.items():
            if not chosen.keys() <= takes.keys():
                continue
            for variant in VARIANTS:
                if not variant.keys() <= takes.keys():
                    continue
                if variant == {"weight_decay": 0.0} and name not in DECOUPLED_BY_RULE:
                    continue  # that is the plain form
                settings = {"lr": LR, **BASE.get(name, {}), **chosen, **variant}
                yield Case(
                    package="torch.optim",
                    optimizer=name,
                    form=", ".join(filter(None, (way, words(variant)))),
                    build=build(name, settings),
                    decay=decay_of(name, way, variant),
                    source="state" if way == "fused" else "dispatch",
                    cannot=_cannot(name, way, variant),
                )


MUON: tuple[Settings, ...] = (
    {},
    {"nesterov": False},
    {"weight_decay": 0.0},
    {"adjust_lr_fn": "match_rms_adamw"},
)
BF16 = "its iteration runs in bfloat16, which rounds a float64 momentum another time"


def _others() -> Iterator[Case]:
    for variant in MUON:
        yield Case(
            package="torch.optim",
            optimizer="Muon",
            form=words(variant),
            build=build("Muon", {"lr": LR, **variant}),
            decay=decay_of("Muon", "", variant),
        )
    for variant in ({}, {"maximize": True}):
        yield Case(
            package="torch.optim",
            optimizer="SparseAdam",
            form=words(variant),
            build=build("SparseAdam", {"lr": LR, **variant}),
            loop=loops.sparse,
        )
    for variant in ({}, {"line_search_fn": "strong_wolfe"}):
        yield Case(
            package="torch.optim",
            optimizer="LBFGS",
            form=words(variant),
            build=build("LBFGS", {"lr": 0.5, "max_iter": 3, **variant}),
            loop=loops.closure,
            source="difference" if variant else "dispatch",
        )


CASES: tuple[Case, ...] = (*_cases(), *_others())
