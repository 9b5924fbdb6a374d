"""Optimizers of other packages, which have an environment of their own: see `make optimizers`."""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.optimizers import loops
from tests.optimizers.case import (
    DECAY,
    IN_DIRECTION,
    IN_GRADIENT,
    LR,
    UNKNOWN,
    Case,
    words,
)
from tests.optimizers.pytorch_optimizer_decays import ADAPTED, DECOUPLED

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # kernels that a CPU does not need
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    MODULES = {
        name: importlib.import_module(name)
        for name in (
            "heavyball",
            "schedulefree",
            "bitsandbytes.optim",
            "prodigyopt",
            "lion_pytorch",
            "came_pytorch",
            "galore_torch",
            "muon",
            "adam_mini",
            "torchao.optim",
            "pytorch_optimizer",
        )
    }
MODULES["heavyball"].utils.compile_mode = None  # its compiler wants a GPU

PACKAGES: Mapping[str, str] = {
    "heavyball": "heavyball",
    "schedulefree": "schedulefree",
    "bitsandbytes.optim": "bitsandbytes",
    "prodigyopt": "prodigyopt",
    "lion_pytorch": "lion-pytorch",
    "came_pytorch": "came-pytorch",
    "galore_torch": "galore-torch",
    "muon": "muon-optimizer",
    "adam_mini": "adam-mini",
    "torchao.optim": "torchao",
    "pytorch_optimizer": "pytorch-optimizer with einops",
}
"""By module, the name to install."""

Settings = Mapping[str, Any]
DECAYED: Settings = {"weight_decay": DECAY}
RANDOM: Settings = {"oracle": "float64 twin, same draws"}
NARROW: Settings = {"oracle": "float32 run", "why_oracle": "computes in float32 whatever it gets"}
QUANTIZED: Settings = {"oracle": "float32 run", "why_oracle": "keeps a state of few bits"}
MIXED: Settings = {"oracle": "float32 run", "why_oracle": "raises with float64 weights"}
ITERATED: Settings = {
    "oracle": "float32 run",
    "why_oracle": "its iteration runs in another precision for float64 weights",
}


def classes_of(module: str) -> Mapping[str, type[torch.optim.Optimizer]]:
    """The optimizer classes that a package names."""
    return {
        name: cls
        for name, cls in sorted(vars(MODULES[module]).items())
        if inspect.isclass(cls)
        and issubclass(cls, torch.optim.Optimizer)
        and not name.startswith("_")
    }


def made(module: str, name: str, settings: Settings = DECAYED, **said: Any) -> Case:
    """A case of one class, by default over all parameters and with AdamW's decay."""

    def build(model: nn.Module) -> Any:
        return getattr(MODULES[module], name)(model.parameters(), **{"lr": LR, **settings})

    said = {"build": build, "form": words(settings), "decay": DECOUPLED, **said}
    return Case(package=PACKAGES[module], optimizer=name, **said)


HEAVYBALL_BASES = ("PSGDBase", "SOAPBase")
HEAVYBALL_WITHOUT_TWIN: Mapping[str, Settings] = {
    **dict.fromkeys(("Muon", "MuonAdamW", "MuonLaProp", "Scion"), ITERATED),
    **dict.fromkeys(("PSGDKron", "PSGDPRO", "QSGD"), MIXED),
    "PSGDLRA": RANDOM,
}
HEAVYBALL_IN_A_BASIS = (
    "HeavyKLSOAP",
    "HeavyKLShampoo",
    "HeavySOAP",
    "HeavySOAPAdEMAMix",
    "HeavySOAPNAdam",
    "HeavySOLP",
    "KLSOAP",
    "KLShampoo",
    "LATHER",
    "SOAP",
    "SOAPAdEMAMix",
    "SOAPNAdam",
    "SOLP",
)


def heavyball() -> Iterator[Case]:
    for name in classes_of("heavyball"):
        if name in HEAVYBALL_BASES:
            continue
        said: dict[str, Any] = {"source": "difference", "decay": UNKNOWN}
        said |= HEAVYBALL_WITHOUT_TWIN.get(name, {})
        if name in HEAVYBALL_IN_A_BASIS:
            said |= MIXED
        if name in (*HEAVYBALL_IN_A_BASIS, "ADOPT", "SUDSAdamW"):
            said["source"] = "difference+dispatch"  # the first step writes nothing
        if name == "SAMWrapper":
            said |= {"build": heavyball_sam, "loop": loops.closure, "form": "around AdamW"}
        if name == "SplitOpt":
            said |= {"build": heavyball_split, "form": "AdamW and SGD"}
        yield made("heavyball", name, **said)


def heavyball_sam(model: nn.Module) -> Any:
    package = MODULES["heavyball"]
    inner = package.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    return package.SAMWrapper(model.parameters(), wrapped_optimizer=inner)


def heavyball_split(model: nn.Module) -> Any:
    package, parameters = MODULES["heavyball"], list(model.parameters())
    return package.SplitOpt(
        [
            {"params": parameters[:2], "optimizer": package.AdamW, "lr": LR},
            {"params": parameters[2:], "optimizer": package.SGD, "lr": LR},
        ]
    )


def schedulefree() -> Iterator[Case]:
    for name in classes_of("schedulefree"):
        said: dict[str, Any] = {"decay": IN_DIRECTION}
        if name.endswith("Closure"):
            said["loop"] = loops.closure
        if name.endswith("Reference"):
            said["source"] = "difference"
        if name.startswith("RAdam"):
            said["steps"] = 7  # the first five move nothing
        yield made("schedulefree", name, **said)

    def around(cls: Callable[..., Any], model: nn.Module) -> Any:
        inner = cls(model.parameters(), lr=LR)
        return MODULES["schedulefree"].ScheduleFreeWrapper(inner, weight_decay_at_y=DECAY)

    for cls, cannot in ((torch.optim.SGD, ""), (torch.optim.AdamW, "KeyError: 'exp_avg'")):
        yield made(
            "schedulefree",
            "ScheduleFreeWrapper",
            build=partial(around, cls),
            form=f"around {cls.__name__}",
            source="difference",
            decay=UNKNOWN,
            cannot=cannot,
        )


BITSANDBYTES_AS_TORCH: Mapping[str, Callable[..., Any]] = {
    "Adam": torch.optim.AdamW,  # its weight decay is decoupled all the same
    "AdamW": torch.optim.AdamW,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
    "SGD": torch.optim.SGD,
}
"""Classes whose rule torch.optim has too: that is the float64 twin which they lack."""


def bitsandbytes() -> Iterator[Case]:
    for name in classes_of("bitsandbytes.optim"):
        settings = dict(DECAYED)
        if "SGD" in name or "LARS" in name:
            settings["momentum"] = 0.9
        said: dict[str, Any] = {"source": "difference", "decay": UNKNOWN, **NARROW}
        rule = BITSANDBYTES_AS_TORCH.get(name.removeprefix("Paged").removesuffix("32bit"))
        if rule is not None:
            twin = partial(_over, rule, {"lr": LR, **settings})
            said |= {"oracle": "float64 of torch.optim", "twin": twin}
        if name.endswith("8bit"):
            settings["min_8bit_size"] = 1
            said |= QUANTIZED
        if name.endswith("AdEMAMix32bit"):
            said["cannot"] = "RuntimeError: output with shape [5] doesn't match the broadcast shape"
        if name == "PytorchLARS":
            said = {
                **MIXED,
                "decay": IN_GRADIENT,
                "tolerance": 1e-3,
                "why_tolerance": "steps of 1e-4 of the weights, which the float32 run rounds",
            }
        yield made("bitsandbytes.optim", name, settings, **said)


def _over(rule: Callable[..., Any], settings: Settings, model: nn.Module) -> Any:
    return rule(model.parameters(), **settings)


def torchao() -> Iterator[Case]:
    for name in classes_of("torchao.optim"):
        cannot = "AssertionError: CPU Offload" if name == "CPUOffloadOptimizer" else ""
        yield made(
            "torchao.optim",
            name,
            source="difference+dispatch",
            decay=UNKNOWN,
            unverified=4,  # a compiled step shows nothing, which the first capture finds out
            cannot=cannot,
            **QUANTIZED,
        )


def galore() -> Iterator[Case]:
    fixed = {"relative_step": False, "scale_parameter": False}
    low = {"rank": 2, "update_proj_gap": 2, "scale": 0.25, "proj_type": "std"}

    def low_rank(name: str, settings: Settings, model: nn.Module) -> Any:
        group = {"params": list(model.parameters()), **low}
        return getattr(MODULES["galore_torch"], name)([group], lr=LR, **settings)

    for name, more in (("GaLoreAdamW", {}), ("GaLoreAdafactor", fixed)):
        settings = {**DECAYED, **more}
        yield made("galore_torch", name, settings)
        form = f"{words(settings)}, rank=2"
        yield made("galore_torch", name, build=partial(low_rank, name, settings), form=form)
    yield made("galore_torch", "GaLoreAdamW8bit", cannot="AssertionError: Torch not compiled with")


def muon() -> Iterator[Case]:
    def alone(name: str, model: nn.Module) -> Any:
        cls = getattr(MODULES["muon"], name)
        return cls(list(model.parameters()), lr=LR, weight_decay=DECAY)

    def with_adam(name: str, model: nn.Module) -> Any:
        parameters = list(model.parameters())
        groups = [
            {"params": part, "use_muon": place == 0, "lr": LR, "weight_decay": DECAY}
            for place, part in enumerate((parameters[:2], parameters[2:]))
        ]
        return getattr(MODULES["muon"], name)(groups)

    for name in classes_of("muon"):
        if name.endswith("WithAuxAdam"):
            build, form = partial(with_adam, name), "weight_decay=0.1, half of it Adam"
        else:
            build, form = partial(alone, name), words(DECAYED)
        yield made("muon", name, build=build, form=form, in_group=not name.startswith("Single"))


def others() -> Iterator[Case]:
    yield made("prodigyopt", "Prodigy", decay=ADAPTED)
    yield made("prodigyopt", "Prodigy", {**DECAYED, "decouple": False}, decay=IN_GRADIENT)
    yield made("prodigyopt", "Prodigy", {**DECAYED, "slice_p": 2}, decay=ADAPTED)
    yield made("lion_pytorch", "Lion")
    yield made("came_pytorch", "CAME")

    def adam_mini(model: nn.Module) -> Any:
        sizes = {"dim": 8, "n_heads": 2, "verbose": False}
        named = model.named_parameters()
        return MODULES["adam_mini"].Adam_mini(named, lr=LR, weight_decay=DECAY, **sizes)

    yield made("adam_mini", "Adam_mini", build=adam_mini)
    yield made("pytorch_optimizer", "DeMo", in_group=True)


CASES: tuple[Case, ...] = (
    *heavyball(),
    *schedulefree(),
    *bitsandbytes(),
    *torchao(),
    *galore(),
    *muon(),
    *others(),
)
