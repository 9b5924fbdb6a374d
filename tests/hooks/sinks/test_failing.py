"""Sinks that fail, hang or are used twice: each costs itself alone, and no password is said."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import optgeom
from optgeom.hooks import WatchError
from optgeom.hooks.sinks import following
from optgeom.sinks import Point
from tests.hooks.sinks.test_following import Kept, Stuck, at_once, model_of, train, whole

__all__ = ["at_once"]

SECRET = "to http://ada:" + "hunter22@host:5000/api and //ada:hunter22@host"


class Exits(Kept):
    def send(self, points: Sequence[Point]) -> None:
        sys.exit(3)


class ExitsAtClose(Kept):
    def close(self) -> None:
        sys.exit(3)


class Tells(Kept):
    def send(self, points: Sequence[Point]) -> None:
        raise OSError(f"no route {SECRET}")

    def close(self) -> None:
        raise OSError(f"no route {SECRET}")


class Slow(Kept):
    def send(self, points: Sequence[Point]) -> None:
        time.sleep(0.3)
        self.calls.append("send")


def train_until(is_done: Callable[[], bool], out: Path, also: list[Any]) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    until = time.monotonic() + 12
    with optgeom.watch(
        model, optimizer, out, every=1, budget=None, flush_every=0.02, also=also
    ) as rec:
        while not is_done() and time.monotonic() < until:
            loss = model(torch.randn(4, 8)).square().mean()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss)
            time.sleep(0.02)
        assert is_done()


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "optgeom-sinks"]


def test_a_sink_that_exits_is_given_up_like_one_that_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exits, at_close, sink = Exits(), ExitsAtClose(), Kept()
    train_until(lambda: "close" in exits.calls, tmp_path / "run", [exits, at_close, sink])
    assert caplog.text.count("nothing is sent to Exits any more: SystemExit: 3") == 1
    assert "ExitsAtClose.close raised SystemExit: 3" in caplog.text
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.scalars("sink_stopped.Exits").num_rows == 1
    assert exits.calls == ["open run", "close"]
    assert sorted(sink.points) == sorted(at_close.points) == whole(tmp_path / "run")


def test_an_exit_while_sinks_open_closes_those_that_are(tmp_path: Path) -> None:
    class ExitsAtOpen(Kept):
        def open(self, run: str) -> None:
            sys.exit(3)

    first = Kept()
    with pytest.raises(SystemExit):
        train(tmp_path / "run", range(2), also=[first, ExitsAtOpen()])
    assert first.calls == ["open run", "close"]


def test_a_sink_that_hangs_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "WAIT", 1.0)
    stuck, sink = Stuck(), Kept()
    train(tmp_path / "run", range(20), also=[stuck, sink])
    assert sorted(sink.points) == whole(tmp_path / "run")
    assert sink.calls == ["open run", "close"]
    assert "not all of the run has been sent to Stuck: " in caplog.text

    # its thread still uses it: another run would be closed by that
    with pytest.raises(WatchError, match=r"this Stuck still takes .* give each run a Stuck of its"):
        train(tmp_path / "next", range(2), also=[stuck])
    assert not (tmp_path / "next").exists()
    stuck.let_go.set()
    for thread in threads():
        thread.join(20)
    train(tmp_path / "next", range(2), also=[stuck])
    assert stuck.calls == ["open run", "close", "open next", "close"]


def test_a_sink_of_two_recorders_at_once_is_refused(tmp_path: Path) -> None:
    sink, other = Kept(), Kept()
    models = [model_of(), model_of()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    settings: dict[str, Any] = {"every": 1, "budget": None}
    with optgeom.watch(models[0], optimizers[0], tmp_path / "a", also=[sink], **settings):
        with pytest.raises(WatchError, match="close that recorder first, or give each run a Kept"):
            optgeom.watch(models[1], optimizers[1], tmp_path / "b", also=[other, sink], **settings)
        assert sink.calls == ["open a"]
        assert other.calls == ["open b", "close"]
    assert sink.calls == ["open a", "close"]


def test_an_interrupted_end_closes_without_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "EVERY", 60.0)  # nothing is sent before the end
    hangs = threading.Event()

    class First(Kept):
        def send(self, points: Sequence[Point]) -> None:
            hangs.wait(20)

    joined = threading.Thread.join

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "optgeom-sinks" and not hangs.is_set():
            hangs.set()
            raise KeyboardInterrupt  # as it comes out of a join that waits
        joined(thread, timeout)

    sink = First()
    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", range(4), also=[sink])
    assert sink.calls == ["open run", "close"]
    assert optgeom.open_trace(tmp_path / "run").closed


def test_waiting_for_a_server_does_not_lengthen_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "before", range(4), also=[Kept()])  # a first look imports what it needs
    monkeypatch.setattr(following, "SHARE", 0.02)  # of 0.3 s: a pause of 15 s
    sink = Slow()
    train_until(lambda: sink.calls.count("send") >= 2, tmp_path / "run", [sink])


def test_no_password_of_an_address_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class TellsAtOpen(Kept):
        def open(self, run: str) -> None:
            raise OSError(f"no route {SECRET}")

    train(tmp_path / "run", range(6), also=[Tells()])
    with pytest.raises(WatchError) as refused:
        train(tmp_path / "next", range(2), also=[TellsAtOpen()])
    assert refused.value.__cause__ is None  # a traceback would show it
    told = caplog.text + str(refused.value)
    assert "hunter22" not in told
    assert told.count("no route to http://***@host:5000/api and //***@host") == 3
