"""No failure of ours reaches the run, and no failure of the run's harms the capture."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from optgeom.optim import NorMuon

ALL_STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")


def test_an_exception_inside_the_step_leaves_nothing_behind(watched, bag, train, opened) -> None:
    class Fragile(torch.optim.SGD):
        broken = False

        def step(self, closure: Any = None) -> Any:
            if self.broken:
                raise FloatingPointError("broken on purpose")
            return super().step(closure)

    model = bag()
    optimizer = Fragile(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
        optimizer.broken = True
        with pytest.raises(FloatingPointError, match="on purpose"):
            train(model, optimizer, [1])
        assert not _get_current_dispatch_mode_stack()
        optimizer.broken = False
        train(model, optimizer, [2])
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1]  # a step that failed is none
    assert torch.allclose(torch.from_numpy(trace.matrix(1, "tall")), model.tall.grad)


def test_an_interrupt_inside_a_captured_step_leaves_nothing_behind(
    watched, bag, give_gradients, opened
) -> None:
    """The second of two optimizers is interrupted: the step stays open, and is made again."""

    class Fragile(torch.optim.SGD):
        broken = False

        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            if self.broken:
                raise KeyboardInterrupt
            return result

    model = bag()
    first = torch.optim.SGD([model.tall], lr=0.1)
    second = Fragile([model.wide, model.row], lr=0.1)
    with watched(model, [first, second], every=2, updates_every=2) as recorder:
        for step in range(2):
            give_gradients(model, step)
            first.step()
            second.step()
        second.broken = True
        give_gradients(model, 2)
        first.step()
        with pytest.raises(KeyboardInterrupt):
            second.step()
        assert recorder.step == 2
        assert not _get_current_dispatch_mode_stack()
        second.broken = False
        recorder.capture_next()  # of the next step that begins: this one has
        give_gradients(model, 3)
        second.step()
        assert recorder.step == 3
        for step in (4, 5):
            give_gradients(model, step)
            first.step()
            second.step()
        assert recorder.step == 5
        assert recorder.failure is None
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 2, 3, 4]
    assert trace.steps("wide").tolist() == [0, 2, 3, 4]
    truth = give_gradients(model, 3) or model.wide.grad
    assert torch.allclose(torch.from_numpy(trace.matrix(2, "wide")), truth, atol=1e-6)
    assert set(trace.metrics()["status"].to_pylist()) == {"ok"}


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken on purpose")


def normuon(params: Any) -> Any:
    return NorMuon(params, lr=0.1)


def adamw(params: Any) -> Any:
    return torch.optim.AdamW(params, lr=0.1)


BREAKS = {
    "beginning": ("optgeom.hooks.capture.Reading", adamw),
    "reading": ("optgeom.hooks.reading.Reading.before", adamw),
    "taps": ("optgeom.hooks.reading.Reading.tap", normuon),
    "samples": ("optgeom.hooks.capture.outcomes", adamw),
    "norms": ("optgeom.hooks.records.norms_pass", normuon),
    "spectra": ("optgeom.hooks.records.measure_spectrum", adamw),
    "planning": ("optgeom.hooks.recorder.plan", adamw),
    "finishing": ("optgeom.hooks.costs.Costs.capture_ended", adamw),
    "writing": ("optgeom.traces.writing.sink.TableLog.flush", adamw),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_failure_of_ours_stops_the_capture_alone(
    name: str, watched, monkeypatch, caplog, opened, bag, train
) -> None:
    path, build = BREAKS[name]
    plain, seen = bag(), bag()
    optimizer = build(plain.parameters())
    train(plain, optimizer, range(8))
    watch_optimizer = build(seen.parameters())
    with caplog.at_level(logging.WARNING, logger="optgeom"):
        monkeypatch.setattr(path, broken)
        with watched(seen, watch_optimizer, stages=ALL_STAGES) as recorder:
            train(seen, watch_optimizer, range(8))
    for a, b in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(a, b)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "broken on purpose" in errors[0].getMessage()
    assert "broken on purpose" in str(recorder.failure)
    last = caplog.records[-1].getMessage()
    assert "capture stopped (RuntimeError: broken on purpose), the run went on" in last
    assert recorder.step == 8
    assert not _get_current_dispatch_mode_stack()
    if name != "writing":
        assert opened().scalars("capture_stopped").num_rows == 1


@pytest.mark.parametrize("name", BREAKS)
def test_strict_raises_instead(name: str, watched, monkeypatch, bag, train) -> None:
    path, build = BREAKS[name]
    model = bag()
    optimizer = build(model.parameters())
    monkeypatch.setattr(path, broken)

    def go() -> None:
        with watched(model, optimizer, strict=True, stages=ALL_STAGES):
            train(model, optimizer, range(3))

    with pytest.raises(RuntimeError, match="on purpose"):
        go()


def test_a_mode_that_the_step_leaves_behind_is_not_popped(watched, bag, train) -> None:
    class Stray(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    stray = Stray()

    class Careless(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            stray.__enter__()
            return super().step(closure)

    model = bag()
    optimizer = Careless(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        assert _get_current_dispatch_mode_stack()[-1] is stray
        stray.__exit__(None, None, None)
        for mode in reversed(_get_current_dispatch_mode_stack()):
            mode.__exit__(None, None, None)  # ours beneath it, inert
        assert recorder.failure is None
