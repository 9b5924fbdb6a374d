"""Sinks beside a run: sent while it goes on, whole at the end, and never in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optgeom
from optgeom.hooks import WatchError
from optgeom.hooks.sinks import following
from optgeom.hooks.sinks.series import lines_of, points_of
from optgeom.sinks import Point, Series


class Kept:
    """Keeps what it is sent, as a user's own sink might."""

    def __init__(self, series: Series | None = None) -> None:
        self.series = series
        self.calls: list[str] = []
        self.points: list[Point] = []

    def open(self, run: str) -> None:
        self.calls.append(f"open {run}")

    def send(self, points: Sequence[Point]) -> None:
        self.points += points

    def close(self) -> None:
        self.calls.append("close")


class Breaks(Kept):
    def send(self, points: Sequence[Point]) -> None:
        raise OSError("the server has gone")


class Stuck(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def send(self, points: Sequence[Point]) -> None:
        self.let_go.wait(60)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(following, "EVERY", 0.02)
    monkeypatch.setattr(following, "SHARE", 1e9)
    yield
    assert not [one.name for one in threading.enumerate() if one.name == "optgeom-sinks"]


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8))


def train(out: Path, steps: range, pause: float = 0.0, **settings: Any) -> nn.Module:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with optgeom.watch(
        model, optimizer, out, every=2, budget=None, flush_every=0.02, **settings
    ) as rec:
        for step in steps:
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rec.log(loss=loss)
            time.sleep(pause)
    return model


def whole(out: Path, series: Series | None = None) -> list[Point]:
    return points_of(lines_of(optgeom.open_trace(out), series or Series()))


def test_everything_arrives_once_and_in_order(tmp_path: Path) -> None:
    series = Series(metrics=("stable_rank",), layers=("^0",))
    sinks = [Kept(), Kept(series)]
    train(tmp_path / "run", range(20), also=sinks)
    for sink, wanted in zip(sinks, (None, series), strict=True):
        assert sink.calls == ["open run", "close"]
        assert sorted(sink.points) == whole(tmp_path / "run", wanted)
        assert len(sink.points) > 20


def test_it_is_sent_while_the_run_goes_on(tmp_path: Path) -> None:
    sink = Kept()
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    until = time.monotonic() + 20
    with optgeom.watch(
        model, optimizer, tmp_path / "run", every=2, budget=None, flush_every=0.02, also=[sink]
    ):
        while not sink.points and time.monotonic() < until:
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(0.01)
        seen = list(sink.points)
    assert seen
    assert sorted(sink.points) == whole(tmp_path / "run")
    for name in {one.name for one in sink.points}:  # of one name, steps only go up
        steps = [one.step for one in sink.points if one.name == name]
        assert steps == sorted(set(steps))


def test_not_a_bit_of_the_run_changes(tmp_path: Path) -> None:
    watched = train(tmp_path / "run", range(12), also=[Kept()])
    plain = train(tmp_path / "plain", range(12))
    for one, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_sink_that_raises_is_dropped_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sink = Breaks(), Kept()
    train(tmp_path / "run", range(30), pause=0.01, also=[broken, sink])
    said = "nothing is sent to Breaks any more: OSError: the server has gone"
    assert caplog.text.count(said) == 1
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.scalars("sink_stopped.Breaks").to_pylist()[0]["value"] == 1.0
    assert trace.scalars("capture_stopped").num_rows == 0
    assert broken.calls == ["open run", "close"]
    assert sorted(sink.points) == whole(tmp_path / "run")


def test_a_sink_that_does_not_answer_holds_up_the_end_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "WAIT", 0.3)
    sink = Stuck()
    started = time.monotonic()
    train(tmp_path / "run", range(8), also=[sink])
    assert time.monotonic() - started < 20
    assert "not all of the run has been sent to Stuck" in caplog.text
    assert optgeom.open_trace(tmp_path / "run").closed
    sink.let_go.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "optgeom-sinks"]
    thread.join(20)


def test_a_resumed_run_sends_its_own_steps_alone(tmp_path: Path) -> None:
    train(tmp_path / "run", range(20))
    sink = Kept()
    train(tmp_path / "run", range(8, 14), also=[sink], start_step=8)
    assert {one.step for one in sink.points if "cv" in one.name} == {8, 10, 12}
    assert {one.step for one in sink.points} == set(range(8, 14))  # what was logged last, too


def test_a_sink_that_cannot_open_leaves_nothing(tmp_path: Path) -> None:
    class Closed(Kept):
        def open(self, run: str) -> None:
            raise ConnectionError("no route")

    first = Kept()
    with pytest.raises(WatchError, match=r"Closed.open raised ConnectionError: no route"):
        train(tmp_path / "run", range(2), also=[first, Closed()])
    assert first.calls == ["open run", "close"]
    assert not (tmp_path / "run").exists()


def test_a_trace_that_cannot_be_made_leaves_no_sink_open(tmp_path: Path) -> None:
    train(tmp_path / "run", range(2))
    sink = Kept()
    with pytest.raises(optgeom.OptgeomError, match="start_step"):
        train(tmp_path / "run", range(2), also=[sink])
    assert sink.calls == []  # each opening is a run that somebody sees


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("tensorboard", "takes a list of sinks"),
        (Kept(), "takes a list of sinks"),
        ([print], r"a sink has open\(run\), send\(points\) and close\(\)"),
        ([Kept], "got the class Kept"),
        ([Kept("loss")], "must be an optgeom.sinks.Series"),
    ],
)
def test_what_is_no_sink_is_refused_before_training(tmp_path: Path, also: Any, said: str) -> None:
    with pytest.raises(WatchError, match=said):
        train(tmp_path / "run", range(2), also=also)
    assert not (tmp_path / "run").exists()


def test_nothing_is_opened_where_watching_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTGEOM_DISABLED", "1")
    sink = Kept()
    train(tmp_path / "run", range(2), also=[sink])
    assert sink.calls == []
