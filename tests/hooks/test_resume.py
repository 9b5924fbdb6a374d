"""Checkpoints, resumed runs, and what changes about a model or optimizer while it is watched."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn


def adamw(model: nn.Module, lr: float = 0.1) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr)


@pytest.mark.parametrize("assign", [False, True])
def test_a_resumed_run_goes_on_as_a_new_attempt(
    assign: bool, watched, bag, train, opened, tmp_path
) -> None:
    straight = bag()
    optimizer = adamw(straight)
    with watched(straight, optimizer, out=tmp_path / "straight", every=2):
        train(straight, optimizer, range(10))

    model = bag()
    optimizer = adamw(model)
    checkpoint: dict[str, Any] = {}
    with watched(model, optimizer, every=2) as recorder:
        for step in range(8):
            train(model, optimizer, [step])
            if step == 4:
                checkpoint = {
                    "model": copy.deepcopy(model.state_dict()),
                    "optimizer": copy.deepcopy(optimizer.state_dict()),
                    "step": recorder.step,
                }
    assert checkpoint["step"] == 5

    model = bag(seed=9)
    model.load_state_dict(checkpoint["model"], assign=assign)
    optimizer = adamw(model, lr=3.0)
    optimizer.load_state_dict(checkpoint["optimizer"])
    with watched(model, optimizer, start_step=checkpoint["step"], every=2) as recorder:
        train(model, optimizer, range(recorder.step, 10))
        assert recorder.step == 10
    trace, truth = opened(), opened("straight")
    assert trace.steps("tall").tolist() == truth.steps("tall").tolist() == [0, 2, 4, 6, 8]
    for step in truth.steps("tall").tolist():
        assert (trace.matrix(step, "tall") == truth.matrix(step, "tall")).all()
    assert [one.start_step for one in trace.info.attempts] == [0, 5]
    attempts = trace.metrics(layers=["tall"])["attempt"].to_pylist()
    assert attempts == [0, 0, 0, 1, 1]


def test_loading_into_what_is_watched(watched, bag, train, opened, caplog) -> None:
    """A step back to a checkpoint inside one run: the parameters stay the same objects."""
    model = bag()
    optimizer = adamw(model)
    truth = []
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, [1, 2])
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        train(model, optimizer, [1])
        truth.append(model.tall.detach().clone())
        assert recorder.step == 4
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert (trace.matrix(1, "tall") == trace.matrix(3, "tall")).all()
    assert trace.metrics()["status"].to_pylist() == ["ok"] * 12
    assert "left out" not in caplog.text


def test_parameters_that_a_model_lets_go_of_are_said_and_left_out(
    watched, bag, train, opened, caplog
) -> None:
    model = bag()
    optimizer = adamw(model)
    with (
        caplog.at_level(logging.WARNING, logger="optgeom"),
        watched(model, optimizer) as recorder,
    ):
        train(model, optimizer, range(2))
        model.load_state_dict({"tall": torch.ones(12, 5)}, strict=False, assign=True)
        held = optimizer.param_groups[0]["params"]
        optimizer.param_groups[0]["params"] = [p for p in held if p is not model.wide]
        train(model, optimizer, range(2, 4))
        assert recorder.failure is None
        assert recorder.step == 4
    trace = opened()
    steps = {name: trace.steps(name).tolist() for name in ("tall", "wide", "row")}
    assert steps == {"tall": [0, 1], "wide": [0, 1], "row": [0, 1, 2, 3]}
    said = [one for one in caplog.messages if "is left out from step 2 on" in one]
    assert len(said) == 2
    assert "tall" in said[0]
    assert "the model has another parameter in its place" in said[0]
    assert "the optimizer holds another parameter in its place" in said[1]
    assert all("start_step=2" in one for one in said)


def test_a_group_that_comes_later_is_said_and_not_captured(
    watched, bag, train, opened, caplog
) -> None:
    model = bag()
    optimizer = torch.optim.AdamW([model.tall], lr=0.1)
    with caplog.at_level(logging.WARNING, logger="optgeom"), watched(model, optimizer):
        train(model, optimizer, range(2))
        optimizer.add_param_group({"params": [model.wide, model.row], "lr": 0.01})
        train(model, optimizer, range(2, 4))
    trace = opened()
    assert [layer.name for layer in trace.layers] == ["tall"]
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert trace.metrics()["lr"].to_pylist() == [0.1] * 4
    (said,) = [one for one in caplog.messages if "came to the optimizer after watch" in one]
    assert said.startswith("2 parameters")
    assert "start_step=2" in said


def test_frozen_parameters_rest_and_come_back(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = adamw(model)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        model.tall.requires_grad_(False)
        for _ in range(2):
            model.tall.grad = None
            for p in (model.wide, model.row):
                p.grad = torch.ones_like(p)
            optimizer.step()
        model.tall.requires_grad_(True)
        train(model, optimizer, [3])
        assert recorder.failure is None
    trace = opened()
    rows = trace.metrics(layers=["tall"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "zero", "zero", "ok"]
    assert set(trace.metrics(layers=["wide"])["status"].to_pylist()) == {"ok"}


def test_an_attempt_that_an_exception_ended_is_marked_failed_and_resumed(
    watched, bag, train, opened
) -> None:
    model = bag()
    optimizer = adamw(model)

    def run() -> None:
        with watched(model, optimizer):
            train(model, optimizer, range(3))
            raise RuntimeError("out of memory\non purpose")

    with pytest.raises(RuntimeError, match="out of memory"):
        run()
    trace = opened()
    assert trace.failed == "RuntimeError: out of memory"
    assert not trace.closed
    assert trace.steps("tall").tolist() == [0, 1, 2]
    with watched(model, optimizer, start_step=3):
        train(model, optimizer, range(3, 5))
    assert opened().closed
    assert opened().steps("tall").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_run_that_somebody_stopped_is_closed(error, watched, bag, train, opened) -> None:
    model = bag()
    optimizer = adamw(model)

    def run() -> None:
        with watched(model, optimizer):
            train(model, optimizer, range(3))
            raise error

    with pytest.raises(error):
        run()
    assert opened().closed
    assert "step" not in vars(optimizer)
