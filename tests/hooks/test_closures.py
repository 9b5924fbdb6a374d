"""Steps that run forward and backward inside themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization: up along the gradient, a closure, back, and a base step."""

    def __init__(self, params: Any, rho: float = 0.05, **base: Any) -> None:
        super().__init__(params, {"rho": rho, **base})
        self.base = torch.optim.SGD(self.param_groups, **base)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:
        assert closure is not None
        closure = torch.enable_grad()(closure)
        params = self.param_groups[0]["params"]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        for p in params:
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad * self.param_groups[0]["rho"] / norm)
        loss = closure()
        for p in params:
            p.data = self.state[p]["old"]
        self.base.step()
        return loss


def loss_of(model: nn.Module) -> Tensor:
    return sum(((p - 1) ** 4).sum() for p in model.parameters())


def train_with_closure(model: nn.Module, optimizer: Any, steps: int) -> list[float]:
    losses = []

    def closure() -> Tensor:
        assert not _get_current_dispatch_mode_stack()
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(steps):
        if isinstance(optimizer, SAM):
            closure()
        losses.append(float(optimizer.step(closure).detach()))
    return losses


def test_sam_is_one_step_and_keeps_its_bits(watched, bag, opened) -> None:
    plain = bag()
    truth = train_with_closure(plain, SAM(plain.parameters(), lr=0.001), 4)
    model = bag()
    optimizer = SAM(model.parameters(), lr=0.001)
    weights: list[Tensor] = []
    with watched(model, optimizer, every=1) as recorder:
        for _ in range(4):
            before = model.tall.detach().clone()
            train_with_closure(model, optimizer, 1)
            weights.append((before - model.tall.detach()) / 0.001)
        assert recorder.step == 4
    assert torch.equal(plain.tall, model.tall)
    assert len(truth) == 4
    trace = opened()
    rows = trace.metrics(layers=["tall"], stages=["update"]).to_pylist()
    # `p.data = old` shows no operation: that is said once, then a difference is read
    assert [row["status"] for row in rows] == ["unverified", "ok", "ok", "ok"]
    assert {row["source"] for row in rows[1:]} == {"difference"}
    for row, wanted in list(zip(rows, weights, strict=True))[1:]:
        found = torch.from_numpy(trace.matrix(row["step"], "tall"))
        assert torch.allclose(found, wanted, atol=1e-2)


def test_lbfgs_is_one_step_whatever_its_closure_does(watched, bag, opened) -> None:
    losses = []
    for watch in (None, watched):
        model = bag()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
        recorder = watch(model, optimizer, every=2, updates_every=2) if watch else None
        losses.append(train_with_closure(model, optimizer, 5))
        if recorder is not None:
            assert recorder.step == 5
            recorder.close()
    assert losses[0] == losses[1]
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 2, 4]
    assert set(trace.metrics()["status"].to_pylist()) <= {"ok", "unverified"}


def test_a_closure_that_raises_ends_no_step(watched, bag, opened) -> None:
    model = bag()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=2)
    with watched(model, optimizer) as recorder:
        train_with_closure(model, optimizer, 1)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                optimizer.step(lambda: 1 / 0)
        assert recorder.step == 1
        assert not _get_current_dispatch_mode_stack()
        train_with_closure(model, optimizer, 1)
        assert recorder.step == 2
    assert opened().steps("tall").tolist() == [0, 1]


def test_a_closure_may_be_named(watched, bag, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def closure() -> Tensor:
        assert not _get_current_dispatch_mode_stack()
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with watched(model, optimizer, stages=("gradient",)):
        optimizer.step(closure=closure)
    gradient = torch.from_numpy(opened().matrix(0, "tall", "gradient"))
    assert torch.equal(gradient, model.tall.grad)
