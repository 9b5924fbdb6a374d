"""What the examples of the documentation assume: a model, an optimizer, data, and a few runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import optgeom
from optgeom.optim import Muon, NorMuon, param_groups

STEPS = 62
"""Of the Muon run: enough for the second moment that `whatif` wants, 60 consecutive ones."""


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(self.up(x).relu())
        return found


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.mlp(x)
        return found


class Model(nn.Module):
    """Three blocks; called with a batch, it returns the loss."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        for block in self.blocks:
            x = block(x)
        return (x - y).square().mean()


def data(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches for it."""
    return [(torch.randn(64, 16), torch.randn(64, 16)) for _ in range(count)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take so many steps."""
    for batch in data(steps):
        model(batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def names() -> dict[str, Any]:
    """The names that examples use without making them."""
    torch.manual_seed(0)
    model = Model()
    return {
        "NorMuon": NorMuon,
        "batches": data(70),
        "mine": _normuon(model),
        "model": model,
        "optgeom": optgeom,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "train": train,
    }


def make_runs(folder: Path, run_names: Iterable[str] = ("a", "muon", "normuon", "ours")) -> None:
    """Train the runs that examples open, every step captured whole."""
    for name in run_names:
        torch.manual_seed(0)
        model = Model()
        make = {"a": _adamw, "muon": _muon}.get(name, _normuon)
        with optgeom.watch(
            model,
            optimizer := make(model),
            folder / name,
            every=1,
            updates_every=1,
            budget=None,
            stages=("update",) if name == "a" else ("update", "ns_input"),
        ):
            train(model, optimizer, STEPS if name == "muon" else 20)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def _muon(model: nn.Module) -> torch.optim.Optimizer:
    return Muon(param_groups(model), lr=1e-2)


def _normuon(model: nn.Module) -> torch.optim.Optimizer:
    return NorMuon(param_groups(model), lr=1e-2, ns_dtype="float32")
