"""A recorder that is closed is gone; a tap without one costs nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from optgeom.hooks import tap
from optgeom.traces.writer import TraceWriter


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken on purpose")


def test_close_gives_everything_back(watched, bag, train) -> None:
    threads = set(threading.enumerate())
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer)
    train(model, optimizer, [0, 1])
    recorder.close()
    recorder.close()
    assert set(threading.enumerate()) <= threads  # others may have ended meanwhile
    assert "step" not in vars(optimizer)
    assert not _get_current_dispatch_mode_stack()


def test_a_tap_without_a_watcher_costs_nothing_and_a_wrong_stage_is_named() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    tap(weight, "ns_input", weight)
    with pytest.raises(ValueError, match=r"stage must be one of .*got 'gradient'"):
        tap(weight, "gradient", weight)


def test_a_third_party_optimizer_can_hand_its_stages_over(watched, bag, train, opened) -> None:
    class Tapping(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                live = p.grad * 2
                tap(p, "ns_input", live)
                live.zero_()
            return super().step(closure)

    model = bag()
    optimizer = Tapping(model.parameters(), lr=0.1)
    with watched(model, optimizer, stages=("ns_input", "update")):
        train(model, optimizer, [0])
    found = torch.from_numpy(opened().matrix(0, "wide", "ns_input"))
    assert torch.equal(found, model.wide.grad * 2)


def test_a_writer_without_a_listener_is_never_reached_after_close(watched, bag, train, monkeypatch):
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer)
    recorder.close()
    monkeypatch.setattr(TraceWriter, "metrics", broken)
    train(model, optimizer, [0])
    recorder.log(loss=1.0)
    recorder.advance()
    recorder.capture_next()
    assert recorder.failure is None
