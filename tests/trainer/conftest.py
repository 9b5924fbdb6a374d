"""Shared by the trainer's tests: a text of a few kilobytes, and a run of a few steps over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from optgeom.trainer.config import TrainConfig
from optgeom.trainer.model import build_model, cross_entropy
from optgeom.trainer.optimizers import build_optimizer
from optgeom.trainer.settings import load_config

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    lines = (f"{i} green bottles hanging on the wall, {i} green bottles\n" for i in range(120))
    path.write_text("".join(lines))
    return path


@pytest.fixture
def tiny_overrides(text: Path) -> Mapping[str, Any]:
    return {
        "model.width": 16,
        "model.heads": 2,
        "model.blocks": 2,
        "data.corpus": str(text),
        "data.sequence": 16,
        "data.batch": 8,
        "schedule.steps": 5,
        "schedule.warmup": 2,
        "capture.every": 2,
        "eval_batches": 2,
        "device": "cpu",
    }


@pytest.fixture
def tiny(tiny_overrides: Mapping[str, Any]) -> MakeConfig:
    """A run that takes a fraction of a second; keywords are overrides with __ for the dot."""

    def make(**overrides: Any) -> TrainConfig:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_config(overrides={**tiny_overrides, **dotted})

    return make


@pytest.fixture
def kept_numbers() -> Callable[[TrainConfig], int]:
    """How many numbers the real optimizer of a small configuration keeps after a step."""

    def count(config: TrainConfig) -> int:
        model = build_model(config.model, length=16, seed=0)
        optimizer = build_optimizer(model, config.optimizer)
        tokens = torch.arange(17).reshape(1, 17)
        cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
        optimizer.step()
        states = (state.items() for state in optimizer.state.values())
        return sum(value.numel() for one in states for key, value in one if key != "step")

    return count
