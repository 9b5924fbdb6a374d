"""An optimizer whose parts can be got wrong, one at a time, as they are met in the wild."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.geometry.diagnosis.loops import hidden

JORDAN = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz by Jordan's coefficients, (m, n) float32."""
    x = matrix / (matrix.norm() + 1e-7)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    a, b, c = JORDAN
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x


def original(rows: int, cols: int) -> float:
    return float(max(1.0, rows / cols) ** 0.5)


Direct = Callable[[Tensor], Tensor]


class Base(torch.optim.Optimizer):
    """Momentum, a direction made of it, decoupled decay; 1-D parameters and embeddings: SGD."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **settings}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = self.direction(p, buffer, group, state) if p.ndim > 1 else buffer
                self.decay(p, group)
                p.add_(update, alpha=-group["lr"])

    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])

    def direction(
        self, p: Tensor, buffer: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> Tensor:
        return orthogonalized(buffer) * original(*p.shape)


class Muon(Base):
    """As it should be."""


def named(name: str, **methods: Any) -> type[Base]:
    """A subclass of Muon that is called `name`."""
    return type(name, (Muon,), methods)


def called_muon(direction: Callable[..., Tensor], **settings: Any) -> Callable[[nn.Module], Any]:
    """An optimizer that calls itself Muon, with another direction, over the hidden matrices."""

    def method(self: Any, p: Tensor, buffer: Tensor, group: Any, state: Any) -> Tensor:
        return direction(p, buffer)

    made = type("Muon", (Muon,), {"direction": method})
    return lambda net: made([{"params": hidden(net), **settings}])


def sgd(net: nn.Module) -> Any:
    return torch.optim.SGD(hidden(net), lr=0.1, momentum=0.9)
