"""Healthy runs, trained once, and a place for runs with a fault planted in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import optgeom
from tests.geometry.diagnosis.loops import hidden, train
from tests.sharing import made_once

SEEDS = (0, 1, 2)
OPTIMIZERS = ("adamw", "muon", "normuon")
HEALTHY = (
    *(f"{name}-{seed}" for name in OPTIMIZERS for seed in SEEDS),
    "torch-muon",
    "torch-muon-by-default",
)
_TINY: Mapping[str, Any] = {
    "schedule.steps": 60,
    "schedule.warmup": 10,
    "eval_every": 60,
    "model.width": 32,
    "model.heads": 2,
    "model.blocks": 2,
    "data.sequence": 32,
    "data.batch": 16,
    "capture.every": 5,
    "capture.spectra_every": 5,
    "capture.updates_every": 20,
}

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, optgeom.Trace]:
    """The trainer's runs at three seeds, and torch's own Muon, also with watch's defaults."""
    folder = made_once(tmp_path_factory, "healthy", _train_healthy)
    return {name: optgeom.open_trace(folder / name) for name in HEALTHY}


def _train_healthy(folder: Path) -> None:
    from optgeom.trainer.settings import load_config
    from optgeom.trainer.train import train as run

    for name in OPTIMIZERS:
        for seed in SEEDS:
            stages = ["gradient", "ns_input", "orthogonalized", "update"]
            settings = {
                **_TINY,
                "seed": seed,
                "optimizer.name": name,
                "optimizer.adamw_lr": 0.003 if name == "adamw" else 0.001,
                "capture.stages": stages if name != "adamw" else ["gradient", "update"],
            }
            run(load_config("demo", overrides=settings), out=folder / f"{name}-{seed}")
    train(folder / "torch-muon", lambda net: torch.optim.Muon(hidden(net), lr=0.02))
    defaults = {"every": 50, "updates_every": None}
    train(
        folder / "torch-muon-by-default",
        lambda net: torch.optim.Muon(hidden(net), lr=0.02),
        steps=101,
        **defaults,
    )


Planted = Callable[..., optgeom.geometry.Diagnosis]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """``planted(make, **how)``: train with a fault in it, and diagnose."""

    def look(make: Any, **how: Any) -> optgeom.geometry.Diagnosis:
        return optgeom.diagnose(train(tmp_path / "run", make, **how))

    return look
