"""Shared by the capture's tests: a bag of matrices, seeded gradients, runs that are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom
from optgeom.hooks import watch

torch.set_num_threads(1)

SHAPES = {"tall": (12, 5), "wide": (6, 9), "row": (1, 7)}


class Bag(nn.Module):
    """Matrices without a forward pass: gradients are given to them."""

    def __init__(self, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            setattr(self, name, nn.Parameter(value.to(dtype)))


def gradients(bag: nn.Module, step: int) -> dict[str, Tensor]:
    """Full-rank gradients that depend on the step alone, float64."""
    generator = torch.Generator().manual_seed(1000 + step)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in bag.named_parameters()
    }


def give_gradients(bag: nn.Module, step: int) -> None:
    """Set every parameter's gradient for a step, rounded to the parameter's dtype."""
    for name, gradient in gradients(bag, step).items():
        parameter = bag.get_parameter(name)
        # through float32 first, so that twins of every precision are fed the same numbers
        parameter.grad = gradient.float().to(parameter.dtype)


def train(bag: nn.Module, optimizer: Any, steps: Sequence[int] | range) -> None:
    for step in steps:
        give_gradients(bag, step)
        optimizer.step()


@pytest.fixture
def bag() -> Callable[..., Bag]:
    """``bag(dtype=float32, shapes=SHAPES, seed=0)``."""

    def make(
        dtype: torch.dtype = torch.float32,
        shapes: dict[str, tuple[int, ...]] | None = None,
        seed: int = 0,
    ) -> Bag:
        return Bag(dtype, SHAPES if shapes is None else shapes, seed)

    return make


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., optgeom.hooks.Recorder]]:
    """``watched(model, optimizer, **settings)``: every step whole, closed with the test."""
    recorders = []

    def make(model: nn.Module, optimizer: Any, **settings: Any) -> optgeom.hooks.Recorder:
        settings = {"every": 1, "budget": None} | settings
        settings = {"updates_every": settings["every"]} | settings
        out = settings.pop("out", tmp_path / "trace")
        recorders.append(watch(model, optimizer, out, **settings))
        return recorders[-1]

    yield make
    for recorder in recorders:
        recorder.close()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Any]:
    """``opened(name="trace")``: the trace that was written to a folder of ``tmp_path``."""
    return lambda name="trace": optgeom.open_trace(tmp_path / str(name))


@pytest.fixture(name="train")
def _train() -> Callable[..., None]:
    """``train(bag, optimizer, steps)``: a step per entry, on that step's gradients."""
    return train


@pytest.fixture(name="give_gradients")
def _give_gradients() -> Callable[..., None]:
    """``give_gradients(bag, step)``: set every parameter's gradient for a step."""
    return give_gradients


@pytest.fixture(name="gradients")
def _gradients() -> Callable[..., dict[str, Tensor]]:
    """``gradients(bag, step)``: full-rank gradients that depend on the step alone, float64."""
    return gradients
