"""What is compared: eleven rules for the hidden matrices of one model, and all that they share.

The embedding, the head and the norms run AdamW under every rule, at the learning rate that was best
for AdamW alone: the rules differ in how they move hidden matrices, and each has one learning rate
to be tuned. Plain AdamW has that one for everything; *AdamW, two rates* has another for the hidden
matrices, as the rest have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from benchmarks.study.variants import (
    CoordinateWise,
    FixedNorm,
    NormalizedBefore,
    TallOnly,
    adamw_two_rates,
)
from optgeom.optim import NorMuon
from optgeom.trainer import TrainConfig, load_config
from optgeom.trainer.config import OptimizerConfig
from optgeom.trainer.optimizers import build_optimizer

BASE: Mapping[str, Any] = {
    "schedule.steps": 600,
    "schedule.warmup": 30,
    "schedule.final": 0.0,
    "eval_every": 40,
    "eval_batches": 20,
    "capture.every": 50,
    "capture.spectra_every": 50,
    "capture.updates_every": 0,
    "capture.stages": ("momentum", "update"),
}
"""What every run overrides in the preset ``demo``."""

# bfloat16 saves nothing on a CPU, and its rounding would add to what the rules are compared by
_MATRICES = {"ns_dtype": "float32"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One rule.

    Attributes:
        name: Of its runs, and in tables.
        label: What it is, in words.
        first_lr: Where its search begins, near the middle of its grid.
        settings: Overrides in the preset.
        make: The optimizer.
    """

    name: str
    label: str
    first_lr: float
    settings: Mapping[str, Any]
    make: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer

    def config(self, *, lr: float, adamw_lr: float, seed: int) -> TrainConfig:
        """The settings of one run.

        Args:
            lr: Of the hidden matrices; under AdamW of everything.
            adamw_lr: Of everything else; not read under AdamW.
            seed: Decides the initial weights and the order of the data, the same for every rule.
        """
        rest = lr if self.name == "adamw" else adamw_lr
        rates = {"optimizer.lr": lr, "optimizer.adamw_lr": rest}
        return load_config("demo", overrides={**BASE, **self.settings, **rates, "seed": seed})


def _ablation(name: str, label: str, rule: type[NorMuon]) -> Arm:
    settings = {"optimizer.name": "normuon", "optimizer.settings": _MATRICES}
    make = partial(build_optimizer, normuon=rule)
    return Arm(name=name, label=label, first_lr=0.006, settings=settings, make=make)


_ALL = (
    Arm(
        name="adamw",
        label="AdamW",
        first_lr=0.004,
        settings={"optimizer.name": "adamw"},
    ),
    Arm(
        name="adamw-two-rates",
        label="AdamW, two rates",
        first_lr=0.002,
        settings={"optimizer.name": "adamw"},
        make=adamw_two_rates,
    ),
    Arm(
        name="muon",
        label="Muon",
        first_lr=0.006,
        # without Nesterov, which is Muon's default, like the paper's NorMuon
        settings={
            "optimizer.name": "muon",
            "optimizer.settings": {**_MATRICES, "nesterov": False},
        },
    ),
    Arm(
        name="normuon",
        label="NorMuon, paper's form",
        first_lr=0.006,
        settings={"optimizer.name": "normuon", "optimizer.settings": _MATRICES},
    ),
    Arm(
        name="normuon-released",
        label="NorMuon, released form",
        first_lr=0.024,
        settings={
            "optimizer.name": "normuon",
            "optimizer.family": "released",
            "optimizer.settings": _MATRICES,
        },
    ),
    # beyond the paper's: what of the released form's gain is its look-ahead
    Arm(
        name="muon-nesterov",
        label="Muon with Nesterov",
        first_lr=0.006,
        settings={"optimizer.name": "muon", "optimizer.settings": _MATRICES},
    ),
    Arm(
        name="normuon-nesterov",
        label="NorMuon, paper's form with Nesterov",
        first_lr=0.006,
        settings={
            "optimizer.name": "normuon",
            "optimizer.settings": {**_MATRICES, "nesterov": True},
        },
    ),
    _ablation("muon-fixed-norm", "Muon, whole-matrix norm fixed", FixedNorm),
    _ablation("normuon-tall", "NorMuon only where m > n", TallOnly),
    _ablation("normalized-before", "normalization before Newton-Schulz", NormalizedBefore),
    _ablation("coordinate-wise", "coordinate-wise second moment", CoordinateWise),
)

ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _ALL}
"""From name to rule, in the order of tables; AdamW first, since the others take its rate."""
