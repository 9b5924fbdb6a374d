"""The demo: three traces that differ in the optimizer; it deletes nothing but its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optgeom.traces.errors import TraceExists
from optgeom.traces.store import open_traces
from optgeom.trainer import ConfigError, demo, train
from optgeom.trainer.demo import RUNS

SMALL = {"schedule.steps": 13, "capture.every": 4, "capture.spectra_every": 4}


@pytest.fixture
def overrides(tiny_overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {k: v for k, v in tiny_overrides.items() if not k.startswith(("schedule", "capture"))}
    return {**kept, **SMALL, "schedule.warmup": 2, "capture.updates_every": 8}


def test_three_traces_to_compare(tmp_path: Path, overrides: Mapping[str, Any]) -> None:
    result = demo(tmp_path / "demo", overrides=overrides)
    assert list(result.runs) == list(RUNS) == ["adamw", "muon", "normuon"]
    traces = open_traces(str(result.root))
    assert sorted(traces) == sorted(RUNS)
    starts = {run.losses[0] for run in result.runs.values()}
    ends = {run.losses[-1] for run in result.runs.values()}
    assert (len(starts), len(ends)) == (1, 3)
    for name, trace in traces.items():
        assert trace.info.config["demo"] is True
        assert trace.info.config["optimizer"]["name"] == name
        assert trace.info.capture["budget"] is None
        assert trace.steps().tolist() == [0, 4, 8, 12]
        assert trace.steps("blocks.0.mlp.up", table="updates").tolist() == [0, 8, 12]
        stages = {"gradient", "momentum", "update"}
        assert set(trace.stages) == (stages if name == "adamw" else stages | {"ns_input"})
        sources = trace.metrics(stages=["update"]).column("source").to_pylist()
        assert set(sources) <= {"dispatch", "tap"}
    for name in ("muon", "normuon"):
        hidden = [layer.name for layer in traces[name].layers if layer.block is not None]
        rms = traces[name].metrics(layers=hidden, stages=["update"]).column("update_rms")
        assert all(value == pytest.approx(0.2, rel=0.2) for value in rms.to_pylist())


def test_a_second_demo_is_refused_or_replaces_the_first(
    tmp_path: Path, overrides: Mapping[str, Any]
) -> None:
    first = demo(tmp_path, overrides=overrides)
    with pytest.raises(TraceExists, match=r"adamw.*overwrite"):
        demo(tmp_path, overrides=overrides)
    again = demo(tmp_path, overrides=overrides, overwrite=True)
    assert again.runs["normuon"].losses == first.runs["normuon"].losses


def test_what_the_demo_has_not_made_is_never_deleted(
    tmp_path: Path, tiny: Any, overrides: Mapping[str, Any]
) -> None:
    demo(tmp_path / "theirs", overrides=overrides)
    (tmp_path / "notes" / "normuon").mkdir(parents=True)
    (tmp_path / "notes" / "normuon" / "notes.txt").write_text("mine")
    train(tiny(), out=tmp_path / "trace" / "muon")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "adamw").write_text("mine")
    for root in ("notes", "trace", "file"):
        before = sorted(path for path in (tmp_path / root).rglob("*"))
        with pytest.raises(TraceExists, match="the demo has not made"):
            demo(tmp_path / root, overrides=overrides, overwrite=True)
        assert sorted(path for path in (tmp_path / root).rglob("*")) == before


def test_the_demo_is_no_torchrun_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, got WORLD_SIZE 2"):
        demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
