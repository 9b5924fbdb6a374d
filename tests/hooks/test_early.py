"""Parameters are measured as soon as an optimizer turns to others; what comes later is not lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom.hooks.reading

LR = 0.1
SHAPES = {"first": (12, 8), "second": (6, 9), "third": (8, 8)}


class Steps(torch.optim.Optimizer):
    """An optimizer whose step is a function of its parameters."""

    def __init__(self, params: Any, apply: Callable[[list[nn.Parameter]], None]) -> None:
        super().__init__(params, {"lr": LR})
        self.apply = apply

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.apply(self.param_groups[0]["params"])


def one_by_one(params: list[nn.Parameter]) -> None:
    for p in params:
        p.mul_(0.99)
        p.add_(p.grad * 2, alpha=-LR)


def decay_first(params: list[nn.Parameter]) -> None:
    for p in params:
        p.mul_(0.99)
    for p in params:
        p.add_(p.grad * 2, alpha=-LR)


def decay_last(params: list[nn.Parameter]) -> None:
    for p in params:
        p.add_(p.grad * 2, alpha=-LR / 0.99)
    for p in params:
        p.mul_(0.99)


def two_additions(params: list[nn.Parameter]) -> None:
    for p in params:
        p.mul_(0.99)
        p.add_(p.grad, alpha=-LR)
    for p in params:
        p.add_(p.grad, alpha=-LR)


def foreach(params: list[nn.Parameter]) -> None:
    torch._foreach_mul_(params, 0.99)
    torch._foreach_add_(params, [p.grad * 2 for p in params], alpha=-LR)


def reused_memory(params: list[nn.Parameter]) -> None:
    room = torch.empty(max(p.numel() for p in params))
    for p in params:
        update = room[: p.numel()].view_as(p)
        torch.mul(p.grad, 2, out=update)
        p.mul_(0.99)
        p.add_(update, alpha=-LR)


def emptied_afterwards(params: list[nn.Parameter]) -> None:
    for p in params:
        update = p.grad * 2
        p.mul_(0.99)
        p.add_(update, alpha=-LR)
        update.zero_()


ORDERS = [
    one_by_one,
    decay_first,
    decay_last,
    two_additions,
    foreach,
    reused_memory,
    emptied_afterwards,
]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be held: parameters are finished as early as can be, known to be done or not."""
    monkeypatch.setattr(optgeom.hooks.reading, "IN_FLIGHT", -1)


def rows_after(
    order: Any, steps: int, bag: Any, train: Any, watched: Any, opened: Any
) -> list[dict[str, Any]]:
    model = bag(shapes=SHAPES)
    optimizer = Steps(model.parameters(), order)
    truth: dict[tuple[int, str], Tensor] = {}
    with watched(model, optimizer):
        for step in range(steps):
            train(model, optimizer, [step])
            for name, p in model.named_parameters():
                truth[step, name] = p.grad * 2
    trace = opened()
    rows = trace.metrics(stages=["update"]).to_pylist()
    assert len(rows) == steps * len(SHAPES)
    for row in rows:
        if row["status"] == "ok":
            found = torch.from_numpy(trace.matrix(row["step"], row["layer"]))
            wanted = truth[row["step"], row["layer"]]
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
            assert row["update_rms"] == pytest.approx(wanted.square().mean().sqrt().item())
            assert row["decay"] == pytest.approx(0.01)
    return rows


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_writing_is_read(order, bag, train, watched, opened) -> None:
    rows = rows_after(order, 4, bag, train, watched, opened)
    assert {(row["source"], row["status"]) for row in rows} == {("dispatch", "ok")}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("order", ORDERS)
def test_a_row_that_was_made_too_early_says_so_and_the_next_is_right(
    order, bag, train, watched, opened
) -> None:
    rows = rows_after(order, 4, bag, train, watched, opened)
    early = {row["layer"] for row in rows if row["status"] == "unverified"}
    # only there was anything written that an early row could not know of; the last was not early
    expected = {decay_last: {"first", "second"}, two_additions: {"first", "second"}}
    assert early == expected.get(order, set())
    assert {row["status"] for row in rows if row["step"] > 0} == {"ok"}
    assert {row["source"] for row in rows} == {"dispatch"}


@pytest.mark.usefixtures("hurried")
def test_a_step_that_raises_half_way_leaves_no_row_behind(
    bag, train, give_gradients, watched, opened
) -> None:
    raises = [False]

    def breaks(params: list[nn.Parameter]) -> None:
        one_by_one(params[:2])
        if raises[0]:
            raise KeyError("half way")
        one_by_one(params[2:])

    model = bag(shapes=SHAPES)
    optimizer = Steps(model.parameters(), breaks)
    with watched(model, optimizer):
        train(model, optimizer, [0])
        raises[0] = True
        give_gradients(model, 1)
        with pytest.raises(KeyError, match="half way"):
            optimizer.step()
        raises[0] = False
        train(model, optimizer, [2])
    trace = opened()
    keys = [(row["step"], row["layer"], row["stage"]) for row in trace.metrics().to_pylist()]
    assert len(keys) == len(set(keys)) == 2 * len(SHAPES)
    assert trace.steps().tolist() == [0, 1]
    assert torch.allclose(torch.from_numpy(trace.matrix(1, "first")), model.first.grad * 2)
