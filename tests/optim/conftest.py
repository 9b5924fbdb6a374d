"""Shared by the optimizer tests: seeded full-rank gradients, and runs over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

GradientMaker = Callable[..., list[Tensor]]
Runner = Callable[..., Tensor]


@pytest.fixture
def gradients() -> GradientMaker:
    """``gradients(shape, steps=3, seed=0, dtype=float32)``: that many Gaussian matrices."""

    def make(
        shape: Sequence[int], *, steps: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
            for _ in range(steps)
        ]

    return make


@pytest.fixture
def run() -> Runner:
    """``run(optimizer, parameter, gradients)``: one step per gradient; the weights after."""

    def drive(optimizer: Optimizer, parameter: nn.Parameter, grads: Sequence[Tensor]) -> Tensor:
        for grad in grads:
            parameter.grad = grad.clone()
            optimizer.step()
        return parameter.detach().clone()

    return drive
