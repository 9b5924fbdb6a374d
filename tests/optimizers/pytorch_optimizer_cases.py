"""Every optimizer class of pytorch-optimizer: how it is made, and what it says of its decay."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.optimizers import loops
from tests.optimizers.case import DECAY, LR, Case, words
from tests.optimizers.pytorch_optimizer_decays import decay_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_optimizer
    from pytorch_optimizer.lr_scheduler.proportion import ProportionScheduler

CLASSES: Mapping[str, type[torch.optim.Optimizer]] = {
    name: cls
    for name, cls in sorted(vars(pytorch_optimizer).items())
    if inspect.isclass(cls)
    and issubclass(cls, torch.optim.Optimizer)
    # the others are torch.optim's own, exported again
    and cls.__module__.startswith("pytorch_optimizer.")
}

ELSEWHERE = ("DeMo",)
"""Classes that want a package which the development extras do not have: among the packages."""

Build = Callable[[type[Any], nn.Module, Mapping[str, Any]], Any]


def over_parameters(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls(model.parameters(), **settings)


def over_model(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls(model, **settings)


def over_muon_groups(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls([{"params": list(model.parameters()), "use_muon": True}], **settings)


def over_low_rank(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    ranks = {"rank": 2, "update_proj_gap": 2, "scale": 0.25, "projection_type": "std"}
    return cls([{"params": list(model.parameters()), **ranks}], **settings)


def around_adamw(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls(torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY), **settings)


def with_base_adamw(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls(model.parameters(), base_optimizer=torch.optim.AdamW, **settings)


def wsam(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    return cls(model, model.parameters(), base_optimizer=torch.optim.AdamW, **settings)


def gsam(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    base = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.ConstantLR(base, factor=1.0)
    rho = ProportionScheduler(schedule, max_lr=LR, min_lr=LR, max_value=0.05)
    return cls(model.parameters(), base_optimizer=base, model=model, rho_scheduler=rho, **settings)


def fadam(cls: type[Any], model: nn.Module, settings: Mapping[str, Any]) -> Any:
    dtype = next(model.parameters()).dtype
    return cls(model.parameters(), momentum_dtype=dtype, fim_dtype=dtype, **settings)


@dataclass(frozen=True)
class Special:
    """What a class needs beyond its parameters and a rate.

    Attributes:
        settings: beyond the package's defaults, a rate of LR and a weight decay of DECAY.
        build: makes it.
        case: what its cases say beyond the defaults.
        low_rank: whether it also projects gradients, where a group names a rank.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    build: Build = over_parameters
    case: Mapping[str, Any] = field(default_factory=dict)
    low_rank: bool = False


MUON = Special(build=over_muon_groups)
SAM = Special({"lr": LR, "weight_decay": DECAY}, with_base_adamw, case={"loop": loops.closure})
WRAPPER = Special(build=around_adamw)
GRAPH = {"loop": loops.graph, "oracle": "float64 twin, same draws"}
RANDOM = {"oracle": "float64 twin, same draws"}
BASIS = {
    "oracle": "float32 run",
    "why_oracle": "eigenvectors of a singular matrix are another basis in float64",
}

SPECIAL: Mapping[str, Special] = {
    **dict.fromkeys(("AdaGO", "AdaMuon", "Muon", "MuonClip", "NorMuon"), MUON),
    **dict.fromkeys(("Conda", "Fira", "GaLore"), Special(low_rank=True)),
    **dict.fromkeys(("SAM", "FriendlySAM"), SAM),
    **dict.fromkeys(("OrthoGrad", "PCGrad"), WRAPPER),
    "APOLLO": Special(case=RANDOM, low_rank=True),
    "AdaHessian": Special(case=GRAPH),
    "AdaLOMO": Special(build=over_model, case={"loop": loops.fused_backward}),
    "AdaShift": Special({"keep_num": 2}),
    "AdamMini": Special({"num_embeds": 4, "num_heads": 2}, over_model),
    "AliG": Special({"max_lr": LR}, case={"loop": loops.value}),
    "Alice": Special(case=BASIS),
    "BSAM": Special({"num_data": 100}, case={"loop": loops.closure, **RANDOM}),
    "DASH": Special(
        case={"tolerance": 1e-2, "why_tolerance": "inverse roots of statistics of low rank"}
    ),
    "DAdaptAdaGrad": Special({"lr": 1.0, "d0": 0.1}),
    "DAdaptSGD": Special({"lr": 1.0, "d0": 0.1}),
    "DistributedMuon": replace(MUON, case={"in_group": True}),
    "FAdam": Special(build=fadam),
    "GSAM": Special(build=gsam, case={"loop": loops.closure_of_outputs}),
    "Gravity": Special(case=RANDOM),
    "Kron": Special(case=RANDOM),
    "LOMO": Special(build=over_model, case={"loop": loops.fused_backward}),
    "LoRARite": Special(
        case={**BASIS, "shapes": {"a": (3, 9), "b": (8, 3), "c": (2, 6), "d": (5, 2)}}
    ),
    "LookSAM": replace(SAM, settings={**SAM.settings, "k": 2}),
    # the first time that it comes back to a parameter it has left, that step is not known whole
    "Lookahead": replace(WRAPPER, settings={"k": 2}, case={"unverified": 3}),
    "MSVAG": Special(
        case={"tolerance": 1e-3, "why_tolerance": "the first variance is rounding over rounding"}
    ),
    "Magma": replace(WRAPPER, case=RANDOM),
    "RAdam": Special(case={"steps": 7}),
    "Ranger21": Special({"num_iterations": 100, "lookahead_merge_time": 2}),
    "Ranger": Special({"k": 2}),
    "SPlus": Special(case=BASIS),
    "SafeFP16Optimizer": replace(
        WRAPPER,
        case={"stand_in": True, "oracle": "float32 run", "why_oracle": "keeps float32 masters"},
    ),
    "ScalableShampoo": Special(
        {"start_preconditioning_step": 2, "preconditioning_compute_steps": 2}
    ),
    "ScheduleFreeRAdam": Special(case={"steps": 7}),
    "ScheduleFreeWrapper": WRAPPER,
    "SophiaH": Special({"update_period": 2}, case=GRAPH),
    "SGDP": Special({"delta": 0.0}),
    "SOAP": Special(case=BASIS),
    "SpectralSphere": Special(case={"shapes": {"tall": (12, 5), "wide": (6, 9), "square": (8, 8)}}),
    "TRAC": replace(WRAPPER, settings={"s_prev": 0.1}),
    "SaRA": Special({"threshold": 0.3}),
    "WSAM": Special(SAM.settings, wsam, case=SAM.case),
}


SOURCES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "AdaLOMO",
            "DASH",
            "DAdaptAdaGrad",
            "FTRL",
            "FlashAdamW",
            "FriendlySAM",
            "LOMO",
            "Nero",
            "ROSE",
            "Ranger21",
            "SAM",
            "SPAM",
            "SRMM",
            "SaRA",
            "SafeFP16Optimizer",
            "ScheduleFreeWrapper",
            "TRAC",
        ),
        "difference",
    ),
    "LookSAM": "difference+dispatch",
    "Ranger": "difference+dispatch",
}
"""Classes that write to the weights in a way that is not folded, at every step or at some."""


def source_of(name: str, decoupled: bool | None) -> str:
    """How a class is to be read."""
    if name == "AdaFactor":
        # it decays by lr * rms(W), so the factor is a measure of the weights themselves
        return "difference" if decoupled else "dispatch"
    return SOURCES.get(name, "dispatch")


def _forms(name: str) -> Iterator[tuple[str, Mapping[str, Any], Build]]:
    """The settings of a class's cases: as published, coupled the other way, without foreach."""
    special = SPECIAL.get(name, Special())
    takes = inspect.signature(CLASSES[name].__init__).parameters
    base = dict(special.settings)
    plain: dict[str, Any] = {}
    if "lr" in takes:
        base.setdefault("lr", LR)
    if "weight_decay" in takes:
        plain["weight_decay"] = DECAY
    yield words(plain), {**base, **plain}, special.build
    if "weight_decouple" in takes:
        other = {**plain, "weight_decouple": not takes["weight_decouple"].default}
        yield words(other), {**base, **other}, special.build
    if "foreach" in takes:
        single = {**plain, "foreach": False}
        yield words(single), {**base, **single}, special.build
    if special.low_rank:
        yield f"{words(plain)}, rank=2", {**base, **plain}, over_low_rank


def _cases() -> Iterator[Case]:
    for name, cls in CLASSES.items():
        if name in ELSEWHERE:
            continue
        takes = inspect.signature(cls.__init__).parameters
        published = getattr(takes.get("weight_decouple"), "default", None)
        for form, settings, build in _forms(name):
            decoupled = settings.get("weight_decouple", published)
            yield Case(
                package="pytorch-optimizer",
                optimizer=name,
                form=form,
                build=partial(_build, build, cls, settings),
                decay=decay_of(name, decoupled, "weight_decay" in settings),
                source=source_of(name, decoupled),
                **SPECIAL.get(name, Special()).case,
            )


def _build(build: Build, cls: type[Any], settings: Mapping[str, Any], model: nn.Module) -> Any:
    return build(cls, model, settings)


CASES: tuple[Case, ...] = tuple(_cases())
