"""Training loops as people write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_steps_that_are_skipped_do_not_count(
    fused: bool, watched, bag, give_gradients, opened
) -> None:
    model = bag()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    stages = ("gradient", "update")
    truth = []
    with watched(model, optimizer, stages=stages, updates_every=2) as recorder:
        for step in range(5):
            give_gradients(model, step)
            truth.append(model.tall.grad.clone())
            if step == 1:
                recorder.capture_next()  # this step is none: the next one is whole
            for p in model.parameters():
                p.grad.mul_(scaler.get_scale())
            if step == 1:
                model.tall.grad[0, 0] = float("inf")
            scaler.scale(torch.zeros(()))
            scaler.step(optimizer)
            scaler.update()
        assert recorder.step == 4
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert trace.steps("tall", table="updates").tolist() == [0, 1, 2]
    for step, index in enumerate((0, 2, 3)):
        found = torch.from_numpy(trace.matrix(step, "tall", "gradient"))
        assert torch.allclose(found, truth[index])


def test_a_nested_super_step_is_recorded_once(watched, bag, train, opened) -> None:
    class Clipping(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.mul_(0.5)
            return result

    model = bag()
    before = model.tall.detach().clone()
    optimizer = Clipping(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
    trace = opened()
    assert trace.steps("tall").tolist() == [0]
    row = trace.metrics(layers=["tall"]).to_pylist()[0]
    update = torch.from_numpy(trace.matrix(0, "tall"))
    assert torch.allclose((1 - row["decay"]) * before - 0.1 * update, model.tall, atol=1e-6)


def test_two_optimizers_make_one_step(watched, bag, give_gradients, opened) -> None:
    model = bag()
    first = torch.optim.SGD([model.tall], lr=0.1)
    second = torch.optim.SGD([model.wide, model.row], lr=0.2)
    with watched(model, [first, second]) as recorder:
        for step in range(3):
            give_gradients(model, step)
            first.step()
            second.step()
            recorder.advance()  # the step has ended by itself: nothing to end
        assert recorder.step == 3
    trace = opened()
    names = {layer.name: layer.optimizer for layer in trace.layers}
    assert names == {"tall": "SGD", "wide": "SGD-1", "row": "SGD-1"}
    assert trace.steps("tall").tolist() == trace.steps("wide").tolist() == [0, 1, 2]


def test_where_one_optimizer_rests_the_step_is_ended_by_hand_or_by_the_next(
    watched, bag, give_gradients, opened
) -> None:
    model = bag()
    first = torch.optim.SGD([model.tall], lr=0.1)
    second = torch.optim.SGD([model.wide], lr=0.2)
    with watched(model, [first, second]) as recorder:
        for step in range(4):
            give_gradients(model, step)
            first.step()
            if step == 2:
                second.step()
            if step == 0:
                recorder.advance()
        assert recorder.step == 3
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert trace.steps("wide").tolist() == [2]


def test_accumulated_gradients_are_one_step(watched, bag, gradients, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, stages=("gradient", "update")) as recorder:
        for step in range(3):
            for part in range(4):
                for name, p in model.named_parameters():
                    ((p * gradients(model, 4 * step + part)[name].float()).sum() / 4).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert recorder.step == 3
    trace = opened()
    for step in range(3):
        wanted = sum(gradients(model, 4 * step + part)["wide"] for part in range(4)) / 4
        for stage in ("gradient", "update"):
            found = torch.from_numpy(trace.matrix(step, "wide", stage)).double()
            assert torch.allclose(found, wanted, atol=1e-6)


def test_hooks_that_fire_twice_record_once(watched, bag, train, opened) -> None:
    class Twice(torch.optim.SGD):
        """Calls its own step again, as wrappers around optimizers do."""

        again = False

        def step(self, closure: Any = None) -> Any:
            if self.again:
                return super().step(closure)
            self.again = True
            try:
                return self.step(closure)
            finally:
                self.again = False

    model = bag()
    optimizer = Twice(model.parameters(), lr=0.1)
    fired = []
    optimizer.register_step_post_hook(lambda *_: fired.append(1))
    with watched(model, optimizer, every=2) as recorder:
        train(model, optimizer, range(4))
        assert recorder.step == 4
    assert len(fired) > 4
    assert opened().steps("tall").tolist() == [0, 2]


class NorMuonAndAdam:
    """No Optimizer: groups of its own kind, and a method that is not called step."""

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter]) -> None:
        self.param_groups = [
            {"params": matrices, "lr": 0.5, "kind": "normuon"},
            {"params": others, "lr": 0.25, "kind": "adam"},
        ]

    @torch.no_grad()
    def apply(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])


def test_something_that_is_no_optimizer_is_stood_around_by_hand(
    watched, bag, give_gradients, opened
) -> None:
    model = bag()
    rule = NorMuonAndAdam([model.tall], [model.wide, model.row])
    with watched(model, rule) as recorder:
        for step in range(2):
            give_gradients(model, step)
            with recorder.applying():
                rule.apply()
        assert recorder.step == 2
    trace = opened()
    assert trace.steps("tall").tolist() == trace.steps("row").tolist() == [0, 1]
    assert torch.equal(torch.from_numpy(trace.matrix(1, "tall")), model.tall.grad)
    lr = {name: trace.metrics(layers=[name])["lr"][0].as_py() for name in ("tall", "row")}
    assert lr == {"tall": 0.5, "row": 0.25}


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_what_is_applied_by_hand_and_an_optimizer_make_one_step(
    where: str, watched, bag, give_gradients, opened
) -> None:
    model = bag()
    first = NorMuonAndAdam([model.tall], [])
    second = NorMuonAndAdam([model.row], [])
    optimizer = torch.optim.SGD([model.wide], lr=0.1)
    with watched(model, [first, optimizer, second]) as recorder:
        for step in range(3):
            give_gradients(model, step)
            with recorder.applying():
                first.apply()
                if where == "inside":
                    optimizer.step()
                second.apply()
            if where == "beside":
                optimizer.step()
        assert recorder.step == 3
    trace = opened()
    for name in ("tall", "wide", "row"):
        assert trace.steps(name).tolist() == [0, 1, 2]
        found = torch.from_numpy(trace.matrix(2, name))
        assert torch.allclose(found, model.get_parameter(name).grad, atol=1e-6)


def test_an_optimizer_that_is_stood_around_too_is_recorded_once(
    watched, bag, give_gradients, opened
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        for step in range(2):
            give_gradients(model, step)
            with recorder.applying():
                optimizer.step()
        assert recorder.step == 2
    assert opened().steps("tall").tolist() == [0, 1]
