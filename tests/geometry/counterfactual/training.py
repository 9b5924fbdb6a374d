"""Small runs whose gradients do not depend on the weights: two optimizers see the same momenta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import optgeom
from optgeom.optim import Muon, NorMuon

UP, DOWN, OUT = "blocks.0.mlp.up", "blocks.0.mlp.down", "blocks.0.attention.o"
LAYERS = (OUT, UP, DOWN)
STEPS = 130


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"o": nn.Linear(8, 8, bias=False)})
        self.mlp = nn.ModuleDict(
            {"up": nn.Linear(8, 24, bias=False), "down": nn.Linear(24, 8, bias=False)}
        )


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block()])


def gradients(model: Model, step: int) -> dict[str, torch.Tensor]:
    """Full rank, with rows of unequal size that drift: what a second moment has to follow."""
    found = {}
    for place, (name, parameter) in enumerate(model.named_parameters()):
        draw = np.random.default_rng((step, place))
        rows, cols = parameter.shape
        size = 1.5 + np.sin(np.arange(rows) + step / 40.0)
        found[name] = torch.from_numpy(
            (size[:, None] * draw.standard_normal((rows, cols))).astype(np.float32)
        )
    return found


def train(
    folder: Path,
    optimizer: str | Callable[[Model], torch.optim.Optimizer],
    steps: int = STEPS,
    *,
    lr: float = 0.01,
    **capture: Any,
) -> optgeom.Trace:
    """Train and open the trace; capture overrides raw matrices of every step."""
    model = Model()
    if not isinstance(optimizer, str):
        made: Any = optimizer(model)
    elif optimizer == "adamw":
        made = torch.optim.AdamW(model.parameters(), lr=lr)
    else:
        settings: Mapping[str, Any] = {"nesterov": True, "ns_dtype": "float32"}
        kind = {"muon": Muon, "normuon": NorMuon}[optimizer]
        made = kind(list(model.parameters()), lr=lr, **settings)
    asked = {"every": 1, "updates_every": 1, "budget": None, "stages": ("update", "ns_input")}
    with optgeom.watch(model, made, folder, **{**asked, **capture}):
        for step in range(steps):
            found = gradients(model, step)
            for name, parameter in model.named_parameters():
                parameter.grad = found[name]
            made.step()
    return optgeom.open_trace(folder)


def newton_schulz(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Five steps of Jordan's quintic in float32, written from its formula."""
    x = matrix.astype(np.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (np.linalg.norm(x) + np.float32(1e-7))
    for _ in range(5):
        square = x @ x.T
        x = (
            np.float32(3.4445) * x
            + (np.float32(-4.7750) * square + np.float32(2.0315) * (square @ square)) @ x
        )
    return x.T if tall else x


class PlainNorMuon:
    """arXiv:2510.05491, algorithm 1, from what enters the orthogonalization on; numpy, float32."""

    def __init__(self, rows: int, beta2: float = 0.95) -> None:
        self.v = np.zeros((rows, 1), np.float32)
        self.beta2 = np.float32(beta2)

    def __call__(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        o = newton_schulz(matrix)
        mean_square = (o * o).mean(axis=1, keepdims=True)
        self.v = self.beta2 * self.v + (1 - self.beta2) * mean_square
        o = o / (np.sqrt(self.v) + np.float32(1e-8))
        found: NDArray[np.float32] = o * np.float32(0.2 * np.sqrt(o.size) / np.linalg.norm(o))
        return found


def apart(one: Any, other: Any) -> float:
    """The Frobenius norm of the difference over that of the second."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
