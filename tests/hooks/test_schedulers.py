"""Learning-rate schedulers wrap the optimizer's step too, before ours or after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: torch_schedulers.LambdaLR(o, lambda step: 0.5**step),
    "MultiplicativeLR": lambda o: torch_schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: torch_schedulers.StepLR(o, 1, gamma=0.5),
    "MultiStepLR": lambda o: torch_schedulers.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: torch_schedulers.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: torch_schedulers.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: torch_schedulers.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: torch_schedulers.PolynomialLR(o, total_iters=8),
    "CosineAnnealingLR": lambda o: torch_schedulers.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: torch_schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: torch_schedulers.OneCycleLR(o, 0.1, total_steps=8),
    "ReduceLROnPlateau": lambda o: torch_schedulers.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: torch_schedulers.SequentialLR(
        o,
        [torch_schedulers.ConstantLR(o), torch_schedulers.ExponentialLR(o, 0.5)],
        milestones=[2],
    ),
    "ChainedScheduler": lambda o: torch_schedulers.ChainedScheduler(
        [torch_schedulers.ConstantLR(o), torch_schedulers.ExponentialLR(o, 0.5)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=3),
}
STEPS = 6


def run(model: Any, optimizer: Any, scheduler: Any, train: Any) -> list[float]:
    rates = []
    for step in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        train(model, optimizer, [step])
        if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()  # warns, and so fails, if it does not know that there was a step
    return rates


def test_every_scheduler_of_torch_is_here() -> None:
    bases = {torch_schedulers.LRScheduler, torch_schedulers._LRScheduler}
    known = {
        name
        for name, found in vars(torch_schedulers).items()
        if isinstance(found, type) and issubclass(found, torch_schedulers.LRScheduler)
        if found not in bases
    }
    assert known <= set(SCHEDULERS)


@pytest.mark.parametrize("first", ["scheduler", "watch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_recorded_rates_are_those_of_an_unwatched_run(
    name: str, first: str, watched, bag, train, opened
) -> None:
    def build(model: Any) -> Any:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    plain = bag()
    optimizer = build(plain)
    rates = run(plain, optimizer, SCHEDULERS[name](optimizer), train)

    model = bag()
    optimizer = build(model)
    scheduler = SCHEDULERS[name](optimizer) if first == "scheduler" else None
    with watched(model, optimizer) as recorder:
        scheduler = scheduler or SCHEDULERS[name](optimizer)
        assert run(model, optimizer, scheduler, train) == rates
        assert recorder.step == STEPS
    train(model, optimizer, [STEPS])
    scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
    trace = opened()
    assert trace.metrics(layers=["tall"])["lr"].to_pylist() == rates
    assert trace.steps("tall").tolist() == list(range(STEPS))
