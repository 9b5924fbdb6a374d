"""Optimizers that hand their matrices over, and stages that come from an optimizer's state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from optgeom.hooks import tap
from optgeom.optim import NorMuon

LR = 0.1
DECAY = 0.1


class Handing(torch.optim.Optimizer):
    """One line beside the rule; and a note of whether a dispatch mode was worn."""

    def __init__(self, params: Any, lie: float = 1.0, forget: int | None = None) -> None:
        super().__init__(params, {"lr": LR, "weight_decay": DECAY})
        self.lie, self.forget = lie, forget
        self.modes: list[bool] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.modes.append(_get_current_dispatch_mode() is not None)
        for index, p in enumerate(self.param_groups[0]["params"]):
            update = p.grad * 2
            if index != self.forget:
                tap(p, "update", update * self.lie)
            p.mul_(1 - LR * DECAY)
            p.add_(update, alpha=-LR)


def run(optimizer_of: Any, bag: Any, train: Any, watched: Any, opened: Any) -> Any:
    model = bag()
    optimizer = optimizer_of(model.parameters())
    truth: dict[tuple[int, str], Tensor] = {}
    with watched(model, optimizer):
        for step in range(4):
            train(model, optimizer, [step])
            for name, p in model.named_parameters():
                truth[step, name] = p.grad * 2
    trace = opened()
    rows = {(r["step"], r["layer"]): r for r in trace.metrics(stages=["update"]).to_pylist()}
    assert rows.keys() == truth.keys()
    for key, row in rows.items():
        if row["status"] == "ok":
            found = torch.from_numpy(trace.matrix(*key))
            assert (found - truth[key]).abs().max() <= 1e-5 * truth[key].abs().max()
            assert row["decay"] == pytest.approx(LR * DECAY, rel=1e-4)
            assert row["decay_form"] == "decoupled"
    return optimizer, rows


def test_updates_that_are_handed_over_spare_the_mode(bag, train, watched, opened) -> None:
    optimizer, rows = run(Handing, bag, train, watched, opened)
    assert {(row["source"], row["status"]) for row in rows.values()} == {("tap", "ok")}
    assert optimizer.modes == [True, False, False, False]  # once, to see that nothing is missing


def test_an_update_that_is_not_the_one_applied_is_noticed(bag, train, watched, opened) -> None:
    optimizer, rows = run(lambda p: Handing(p, lie=1.1), bag, train, watched, opened)
    assert {row["status"] for (step, _), row in rows.items() if step == 0} == {"unverified"}
    later = {(row["source"], row["status"]) for (step, _), row in rows.items() if step}
    assert later == {("dispatch", "ok")}
    assert optimizer.modes == [True] * 4


def test_one_parameter_that_is_not_handed_over_keeps_the_mode_on(
    bag, train, watched, opened
) -> None:
    optimizer, rows = run(lambda p: Handing(p, forget=1), bag, train, watched, opened)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {layer: row["source"] for (_, layer), row in rows.items()} == {
        "tall": "tap",
        "wide": "dispatch",
        "row": "tap",
    }
    assert all(optimizer.modes)


def test_one_that_stops_handing_over_is_noticed(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = Handing(model.parameters())
    with watched(model, optimizer):
        train(model, optimizer, range(2))
        optimizer.forget = 0
        train(model, optimizer, range(2, 5))
    rows = {(r["step"], r["layer"]): r for r in opened().metrics().to_pylist()}
    assert rows[2, "tall"]["status"] == "unverified"
    assert rows[2, "wide"]["status"] == "ok"
    assert [rows[step, "tall"]["status"] for step in (0, 1, 3, 4)] == ["ok"] * 4


def test_the_second_moment_of_normuon_is_a_series(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = NorMuon(model.parameters(), lr=LR)
    seen: list[Tensor] = []
    with watched(model, optimizer, stages=("second_moment", "update")):
        for step in range(3):
            train(model, optimizer, [step])
            seen.append(optimizer.state[model.tall]["second_moment"].clone())
    trace = opened()
    for step, moment in enumerate(seen):
        norms = torch.from_numpy(trace.neuron_norms(step, "tall", "second_moment"))
        assert torch.allclose(norms, moment.flatten(), rtol=1e-6)
        assert torch.equal(torch.from_numpy(trace.matrix(step, "tall", "second_moment")), moment)
    rows = trace.metrics(stages=["second_moment"]).to_pylist()
    assert {row["source"] for row in rows} == {"state"}
    spread = seen[-1].std(correction=0) / seen[-1].mean()
    last = next(r for r in rows if (r["step"], r["layer"]) == (2, "tall"))
    assert last["neuron_norm_cv"] == pytest.approx(spread.item(), rel=1e-5)
    assert last["condition_number"] is None


def test_the_second_moment_of_adam_is_a_matrix(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with watched(model, optimizer, stages=("second_moment", "update")):
        train(model, optimizer, range(2))
    found = torch.from_numpy(opened().matrix(1, "wide", "second_moment"))
    assert torch.equal(found, optimizer.state[model.wide]["exp_avg_sq"])


def test_a_tapped_matrix_is_a_copy(bag, watched, opened) -> None:
    class Reusing(Handing):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                update = p.grad * 2
                tap(p, "update", update)
                p.mul_(1 - LR * DECAY).add_(update, alpha=-LR)
                update.zero_()

    model = bag()
    optimizer = Reusing(model.parameters())
    with watched(model, optimizer):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert (opened().matrix(0, "wide") == 2.0).all()
