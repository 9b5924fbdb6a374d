"""How many gradients a step wrote to, as a scalar of every captured step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom

Watched = Callable[..., optgeom.hooks.Recorder]


class InPlace(torch.optim.Optimizer):
    """Leaves what it applies in the gradients: as tensors, or behind autograd's back."""

    def __init__(self, params: Any, way: str) -> None:
        super().__init__(params, {"lr": 0.1})
        self.way = way

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            gradient: Tensor = p.grad.data if self.way == "data" else p.grad
            if self.way == "foreach":
                torch._foreach_mul_([gradient], 0.5)
            else:
                gradient.mul_(0.5)
            p.add_(gradient, alpha=-0.1)


def counted(opened: Callable[..., Any], name: str) -> list[float]:
    found: list[float] = opened().scalars(f"gradients_overwritten.{name}")["value"].to_pylist()
    return found


@pytest.mark.parametrize("way", ["plain", "data", "foreach"])
def test_every_gradient_that_is_written_to_counts(
    way: str,
    bag: Callable[..., nn.Module],
    watched: Watched,
    train: Callable[..., None],
    opened: Callable[..., Any],
) -> None:
    model = bag()
    optimizer = InPlace(model.parameters(), way)
    with watched(model, optimizer):
        train(model, optimizer, range(3))
    assert counted(opened, "InPlace") == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, foreach=False),
        lambda p: torch.optim.AdamW(p, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Muon(p, lr=0.1),
        lambda p: optgeom.optim.NorMuon(p, lr=0.1),
    ],
    ids=["for-loop", "foreach", "fused", "sgd", "muon", "normuon"],
)
def test_optimizers_that_only_read_them_count_none(
    make: Callable[..., Any],
    bag: Callable[..., nn.Module],
    watched: Watched,
    train: Callable[..., None],
    opened: Callable[..., Any],
) -> None:
    model = bag()
    optimizer = make(list(model.parameters()))
    with watched(model, optimizer):
        train(model, optimizer, range(4))
    assert counted(opened, type(optimizer).__name__) == [0.0] * 4


def test_a_closure_may_make_them_anew(
    bag: Callable[..., nn.Module],
    watched: Watched,
    give_gradients: Callable[..., None],
    opened: Callable[..., Any],
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        give_gradients(model, 0)
        return torch.zeros(())

    with watched(model, optimizer):
        optimizer.step(closure)
    assert counted(opened, "SGD") == [0.0]
