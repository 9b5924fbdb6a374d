"""The model that every optimizer steps, and the ways in which a step is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Bag(nn.Module):
    """Matrices of several shapes; their gradients are given, or come from a simple loss."""

    def __init__(self, dtype: torch.dtype, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=generator) / 3
            setattr(self, name, nn.Parameter(value.to(dtype)))

    def loss(self, step: int) -> Tensor:
        """A convex loss: `gradients(step)`, and curvature that differs between the entries."""
        bends = self.gradients(-1)
        terms = [
            (p * g).sum() + (bend * p).square().sum() / 4
            for p, g, bend in zip(self.parameters(), self.gradients(step), bends, strict=True)
        ]
        return torch.stack(terms).sum() + 30.0  # positive, for rules that read the value

    def gradients(self, step: int) -> list[Tensor]:
        """Full-rank gradients that depend on the step alone, rounded through float32."""
        generator = torch.Generator().manual_seed(1000 + step)
        return [torch.randn(p.shape, generator=generator).to(p.dtype) for p in self.parameters()]


Loop = Callable[[Bag, Any, int], None]
"""(model, optimizer, step): one step of a training loop."""


def given(model: Bag, optimizer: Any, step: int) -> None:
    """Gradients that do not depend on the weights, and a step."""
    for p, g in zip(model.parameters(), model.gradients(step), strict=True):
        p.grad = g
    optimizer.step()


def sparse(model: Bag, optimizer: Any, step: int) -> None:
    """Gradients of an embedding: every second row is left out."""
    for p, g in zip(model.parameters(), model.gradients(step), strict=True):
        g[1::2] = 0.0
        p.grad = g.to_sparse(1)
    optimizer.step()


def closure(model: Bag, optimizer: Any, step: int) -> None:
    """A closure that the optimizer calls as often as it likes, gradients there before it."""
    loss = _closure(model, optimizer, step)
    loss()
    optimizer.step(loss)


def closure_of_outputs(model: Bag, optimizer: Any, step: int) -> None:
    """A closure that returns the model's outputs beside the loss."""
    loss = _closure(model, optimizer, step)
    optimizer.step(lambda: (None, loss()))


def value(model: Bag, optimizer: Any, step: int) -> None:
    """A closure that only reports the loss."""
    loss = _closure(model, optimizer, step)()
    optimizer.step(lambda: float(loss))


def graph(model: Bag, optimizer: Any, step: int) -> None:
    """Gradients that can be differentiated again."""
    optimizer.zero_grad()
    with torch.enable_grad():
        model.loss(step).backward(create_graph=True)
    optimizer.step()


def fused_backward(model: Bag, optimizer: Any, step: int) -> None:
    """The backward pass applies the updates."""
    optimizer.fused_backward(model.loss(step), optimizer.lr)


def _closure(model: Bag, optimizer: Any, step: int) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = model.loss(step)
            value.backward()
        return value

    return loss
