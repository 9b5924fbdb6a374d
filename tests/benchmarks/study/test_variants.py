"""Every ablation against the same rule written in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.study.arms import ARMS
from optgeom.optim.newton_schulz import COEFFICIENT_SETS
from optgeom.trainer.config import OptimizerConfig

Matrix = NDArray[np.float64]
Rule = Callable[[Matrix, dict[str, Matrix]], Matrix]

BETA, EPS, LR, DECAY, STEPS = 0.95, 1e-8, 0.03, 0.1, 5
SHAPES = ((24, 8), (12, 12), (8, 24))


def newton_schulz(matrix: Matrix) -> Matrix:
    """Jordan's five steps, written from their formula."""
    x = matrix / np.linalg.norm(matrix)
    for a, b, c in COEFFICIENT_SETS["jordan"].schedule(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def to_rms(matrix: Matrix) -> Matrix:
    return 0.2 * matrix / np.sqrt(np.mean(matrix**2))


def averaged(state: dict[str, Matrix], new: Matrix) -> Matrix:
    state["v"] = BETA * state.get("v", np.zeros_like(new)) + (1 - BETA) * new
    return np.sqrt(state["v"]) + EPS


def normuon(m: Matrix, state: dict[str, Matrix]) -> Matrix:
    o = newton_schulz(m)
    return to_rms(o / averaged(state, (o**2).mean(axis=1, keepdims=True)))


def muon(m: Matrix, state: dict[str, Matrix]) -> Matrix:
    return newton_schulz(m) * 0.2 * np.sqrt(max(m.shape))


def coordinate_wise(m: Matrix, state: dict[str, Matrix]) -> Matrix:
    o = newton_schulz(m)
    return to_rms(o / averaged(state, o**2))


def normalized_before(m: Matrix, state: dict[str, Matrix]) -> Matrix:
    return to_rms(newton_schulz(m / averaged(state, (m**2).mean(axis=1, keepdims=True))))


RULES: dict[str, Rule] = {
    "muon": muon,
    "normuon": normuon,
    "muon-fixed-norm": lambda m, state: to_rms(newton_schulz(m)),
    "normuon-tall": lambda m, state: (normuon if m.shape[0] > m.shape[1] else muon)(m, state),
    "normalized-before": normalized_before,
    "coordinate-wise": coordinate_wise,
}


class Blocks(torch.nn.Module):
    """Three hidden matrices, and a parameter for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        layers = [torch.nn.Linear(n, m, bias=False) for m, n in SHAPES]
        self.blocks = torch.nn.ModuleList(layers)
        self.norm = torch.nn.LayerNorm(4)
        for layer in layers:
            torch.nn.init.normal_(layer.weight, generator=generator)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_moves_weights_as_its_formula_says(name: str, index: int) -> None:
    model = Blocks()
    arm = ARMS[name]
    settings: dict[str, Any] = dict(arm.settings["optimizer.settings"])
    optimizer = arm.make(
        model,
        OptimizerConfig(
            name=arm.settings["optimizer.name"], lr=LR, weight_decay=DECAY, settings=settings
        ),
    )
    weight = model.blocks[index].weight
    expected = weight.detach().double().numpy().copy()
    momentum, state = np.zeros_like(expected), dict[str, Matrix]()
    rng = np.random.default_rng(index)
    for _ in range(STEPS):
        gradient = rng.standard_normal(expected.shape)
        weight.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        expected = (1 - LR * DECAY) * expected - LR * RULES[name](momentum, state)
    moved = np.abs(weight.detach().numpy() - expected).max()
    assert moved < 2e-5, moved


def test_adamw_with_two_rates_is_adamw_at_each() -> None:
    model, arm = Blocks(), ARMS["adamw-two-rates"]
    optimizer = arm.make(
        model, OptimizerConfig(name="adamw", lr=LR, adamw_lr=LR / 4, weight_decay=DECAY)
    )
    for weight, lr, decay in ((model.blocks[0].weight, LR, DECAY), (model.norm.weight, LR / 4, 0)):
        expected = weight.detach().double().numpy().copy()
        first, second = np.zeros_like(expected), np.zeros_like(expected)
        rng = np.random.default_rng(0)
        optimizer.state.clear()
        for step in range(1, STEPS + 1):
            gradient = rng.standard_normal(expected.shape)
            weight.grad = torch.from_numpy(gradient).float()
            optimizer.step()
            first = 0.9 * first + 0.1 * gradient
            second = 0.95 * second + 0.05 * gradient**2
            move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
            expected = (1 - lr * decay) * expected - lr * move
        weight.grad = None
        assert np.abs(weight.detach().numpy() - expected).max() < 2e-6
