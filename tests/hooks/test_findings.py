"""The rules beside a running job: told once, in time to stop it, and never in its way."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optgeom
from optgeom.geometry import Finding
from optgeom.hooks import findings
from optgeom.hooks.errors import WatchError
from optgeom.traces.errors import TraceError
from optgeom.traces.files.place import find
from tests.ranks import assert_ended_well, run_ranks


class Muon(torch.optim.SGD):
    """Plain SGD under the name of Muon."""


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(16, 48, bias=False), nn.Linear(48, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down(torch.relu(self.up(x)))
        return found - x.roll(1, 0)


def backward(model: Linear, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 16, generator=generator) * torch.logspace(0, -3, 16)
    model.zero_grad()
    model(x).square().mean().backward()


def train(out: Path, steps: int, pause: float = 0.0, **settings: Any) -> Linear:
    model = Linear()
    optimizer = Muon(model.parameters(), lr=0.05)
    with optgeom.watch(model, optimizer, out, every=2, budget=None, **settings) as rec:
        for step in range(steps):
            backward(model, step)
            optimizer.step()
            if (thread := rec._findings._thread) is not None:
                thread.join()  # so that the test does not depend on the machine's speed
            time.sleep(pause)
    return model


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "SHARE", 1e9)


def test_a_finding_is_told_once_while_the_job_runs(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    train(tmp_path / "run", 30, on_finding=lambda one: told.append((one.rule, len(told))))
    rules = [rule for rule, _ in told]
    assert "not_orthogonal" in rules
    assert len(rules) == len(set(rules))


def test_what_it_raises_stops_the_job(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(finding: Any) -> None:
        if finding.severity == "severe":
            raise Stop(finding.title)

    with pytest.raises(Stop, match="orthogonal"):
        train(tmp_path / "run", 2000, on_finding=stop, pause=0.02)
    assert len(optgeom.open_trace(tmp_path / "run").steps()) < 900


def test_not_a_bit_of_the_run_changes(tmp_path: Path) -> None:
    watched = train(tmp_path / "run", 20, on_finding=lambda one: None)
    plain = Linear()
    optimizer = Muon(plain.parameters(), lr=0.05)
    for step in range(20):
        backward(plain, step)
        optimizer.step()
    for one, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_healthy_run_is_told_nothing(tmp_path: Path) -> None:
    told: list[Any] = []
    model = Linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with optgeom.watch(
        model, optimizer, tmp_path / "run", every=2, budget=None, on_finding=told.append
    ):
        for step in range(30):
            backward(model, step)
            optimizer.step()
    assert [one for one in told if one.severity != "note"] == []


def test_what_fails_in_looking_ends_the_looking_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError("a rule is broken")

    monkeypatch.setattr(findings, "diagnose", broken)
    train(tmp_path / "run", 10, on_finding=lambda one: None)
    assert caplog.text.count("findings are not looked for any more: a rule is broken") == 1
    assert len(optgeom.open_trace(tmp_path / "run").steps()) == 5


def test_no_thread_outlives_the_run(tmp_path: Path) -> None:
    train(tmp_path / "run", 10, on_finding=lambda one: None)
    assert not [one for one in threading.enumerate() if one.name == "optgeom-diagnose"]


def test_nothing_is_read_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "diagnose", lambda *_, **__: pytest.fail("read"))
    train(tmp_path / "run", 10)


def test_what_is_no_function_is_refused_before_training(tmp_path: Path) -> None:
    model = Linear()
    with pytest.raises(WatchError, match="on_finding takes a function"):
        optgeom.watch(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            tmp_path / "run",
            on_finding="stop",  # type: ignore[arg-type]
        )


def test_a_resumed_run_is_not_told_of_the_attempt_before(tmp_path: Path) -> None:
    train(tmp_path / "run", 60)
    told: list[Any] = []
    model = Linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with optgeom.watch(
        model,
        optimizer,
        tmp_path / "run",
        every=2,
        budget=None,
        start_step=20,
        on_finding=told.append,
    ) as rec:
        for step in range(20, 40):
            backward(model, step)
            optimizer.step()
            if (thread := rec._findings._thread) is not None:
                thread.join()
    assert [one.title for one in told if one.severity != "note"] == []


def test_what_was_not_told_is_told_the_next_time(tmp_path: Path) -> None:
    told: list[str] = []

    def once(finding: Any) -> None:
        told.append(finding.rule)
        if len(told) == 1:
            raise ValueError("not now")

    looks = findings.Findings(find(tmp_path), once, reads=False, start_step=0)
    both = [finding("not_orthogonal"), finding("muon_scale")]
    with pytest.raises(ValueError, match="not now"):
        looks.tell(tuple(both))
    looks.tell(looks.take())
    assert told == ["not_orthogonal", "muon_scale"]


def finding(rule: str) -> Finding:
    return Finding(rule, "severe", "", (), (), (), "", "")


@pytest.mark.distributed
def test_two_ranks_are_told_at_the_same_step(tmp_path: Path) -> None:
    here = Path(__file__)
    root = {"PYTHONPATH": str(here.parents[2])}
    ended = run_ranks(here.with_name("findings_worker.py"), tmp_path, 2, env=root)
    assert_ended_well(ended)
    said = [json.loads(out.splitlines()[-1]) for _, out in ended]
    assert said[0]["during"] == said[1]["during"]
    assert "not_orthogonal" in [rule for _, rule in said[0]["during"]]


def test_a_store_that_does_not_answer_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> Any:
        raise TraceError("s3://bucket/run does not answer")

    looked = findings.Findings(find("s3://bucket/run?region=x"), print, reads=True, start_step=0)
    monkeypatch.setattr(findings, "Trace", away)
    for _ in range(2):
        assert looked.last() == ()
    (said,) = caplog.messages
    assert said.endswith("and are tried again: s3://bucket/run does not answer")
