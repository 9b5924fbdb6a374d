"""Steps that capture nothing cost nothing: counted in calls, not in time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optgeom.hooks import Clock


class Operations(TorchDispatchMode):
    """Every operation of PyTorch: whatever makes, reads or copies a tensor is one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], Any]) -> list[str]:
    with Operations() as mode:
        step()
    return mode.seen


def calls(step: Callable[[], Any]) -> Counter[str]:
    """Calls of Python functions and of builtins, while the step runs."""
    found: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: found.update([event]))
    try:
        step()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("layers", [None, {"tall": Clock(every=500), "wide": Clock(start=10**6)}])
def test_no_operation_and_a_handful_of_calls(layers: Any, watched, bag, train) -> None:
    model, plain = bag(), bag()
    optimizers = [
        torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, foreach=False)
        for one in (model, plain)
    ]
    recorder = watched(model, optimizers[0], every=1000, layers=layers, budget=0.01)
    for one, optimizer in zip((model, plain), optimizers, strict=True):
        train(one, optimizer, range(70))  # as many as durations are kept
    watched_step, plain_step = (optimizer.step for optimizer in optimizers)

    assert operations(watched_step) == operations(plain_step)
    more = calls(watched_step) - calls(plain_step)
    assert more["call"] <= 8
    assert more["c_call"] <= 24
    held = [recorder._costs.between, recorder._costs.uncaptured]
    assert [len(one) for one in held] == [64, 64]
    assert recorder.step == 72


def test_several_optimizers_cost_as_much_each(watched, bag, train) -> None:
    model, plain = bag(), bag()
    pairs = [[torch.optim.SGD([p], lr=0.1) for p in one.parameters()] for one in (model, plain)]
    watched(model, pairs[0], every=1000)
    counts = []
    for one, optimizers in zip((model, plain), pairs, strict=True):
        train(one, optimizers[0], [0])
        for optimizer in optimizers[1:]:
            optimizer.step()

        def steps(optimizers: Any = optimizers) -> None:
            for optimizer in optimizers:
                optimizer.step()

        steps()
        counts.append((operations(steps), calls(steps)))
    assert counts[0][0] == counts[1][0]
    assert (counts[0][1] - counts[1][1])["call"] <= 3 * 8


def test_a_captured_step_is_seen_by_this_test(watched, bag, train) -> None:
    """What the others assert can fail."""
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer, every=1000)
    train(model, optimizer, range(3))
    plain = operations(optimizer.step)
    recorder.capture_next()
    assert len(operations(optimizer.step)) > len(plain)
