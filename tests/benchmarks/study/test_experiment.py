"""A study of a few steps: its order, what it keeps, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.study import arms, experiment, page, tables, trials
from benchmarks.study.arms import ARMS
from benchmarks.study.experiment import Runs
from benchmarks.study.search import TRIALS
from benchmarks.study.tables import Tables, collect


class Here(Executor):
    """Runs what it is given in this process, at once."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text(" ".join(str(i * i) for i in range(4000)))
    return path


@pytest.fixture
def short(text: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Four steps of a model of one block, on two rules and two seeds."""
    base = {
        **arms.BASE,
        "model.width": 8,
        "model.heads": 2,
        "model.blocks": 1,
        "data.corpus": (str(text),),
        "data.sequence": 8,
        "data.batch": 2,
        "schedule.steps": 4,
        "schedule.warmup": 1,
        "eval_every": 2,
        "eval_batches": 1,
        "capture.every": 2,
        "capture.spectra_every": 2,
    }
    monkeypatch.setattr(arms, "BASE", base)
    few = {name: ARMS[name] for name in ("adamw", "normuon")}
    for module in (experiment, tables, page):
        monkeypatch.setattr(module, "ARMS", few)
    monkeypatch.setattr(experiment, "SEEDS", (0, 1))
    monkeypatch.setattr(tables, "FIGURE_1", {"seed": 0, "layer": "blocks.0.mlp.up", "step": 2})
    return base


def run(folder: Path) -> tuple[Runs, list[str]]:
    told: list[str] = []
    return experiment.experiment(folder, Here(), tell=told.append), told


def test_every_rule_is_searched_then_trained_at_every_seed(short: object, tmp_path: Path) -> None:
    runs, told = run(tmp_path)
    for name in ("adamw", "normuon"):
        assert len(runs.searches[name]) >= TRIALS
        finals = runs.finals[name]
        assert [one.trial.seed for one in finals] == [0, 1]
        assert {one.trial.lr for one in finals} == {runs.rate(name)}
        for one in finals:
            assert [step for step, _ in one.curve] == [2, 4]
            assert one.curve[-1][1] == pytest.approx(one.loss)
    assert {one.trial.adamw_lr for one in runs.finals["normuon"]} == {runs.rate("adamw")}
    assert len(told) == sum(map(len, (*runs.searches.values(), *runs.finals.values())))


def test_what_is_done_is_not_done_again(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(tmp_path)
    lost = tmp_path / "trials" / "normuon-1.json"
    lost.unlink()
    trained = []

    def train(*args: Any, run: str, **settings: Any) -> Any:
        trained.append(run)
        return real(*args, run=run, **settings)

    real = trials.train
    monkeypatch.setattr(trials, "train", train)
    second, _ = run(tmp_path)
    assert trained == ["normuon-1"]  # though the trace of the stopped run is still there
    assert [one.loss for one in second.finals["normuon"]] == [
        one.loss for one in first.finals["normuon"]
    ]

    monkeypatch.setattr(arms, "BASE", {**short, "eval_batches": 2})
    kept = json.loads((tmp_path / "trials" / "adamw-0.json").read_text())
    run(tmp_path)
    assert json.loads((tmp_path / "trials" / "adamw-0.json").read_text()) != kept
    assert "adamw-0" in trained


def test_what_other_code_did_is_done_again(
    short: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, _ = run(tmp_path)
    (trial, *_) = (one.trial for one in runs.finals["normuon"])
    assert trials.read(trial, tmp_path) is not None
    monkeypatch.setattr(trials, "code", lambda: "of another rule")
    assert trials.read(trial, tmp_path) is None


def test_tables_hold_what_the_runs_found_and_come_back(short: object, tmp_path: Path) -> None:
    runs, _ = run(tmp_path)
    costs = [
        {"arm": name, "step_ms": 1.0, "ratio": 1.0, "low": 1.0, "high": 1.0, "state_bytes": 8}
        for name in ("adamw", "normuon")
    ]
    made = collect(runs, tmp_path, cost=pa.Table.from_pylist(costs), about={"runs": 1})
    made.save(tmp_path / "kept")
    back = Tables.load(tmp_path / "kept")
    for name in ("adamw", "normuon"):
        assert back.losses(name) == pytest.approx([o.loss for o in runs.finals[name]], rel=1e-5)
        assert back.rate(name) == runs.rate(name)
        assert len(back.search(name)) == len(runs.searches[name])
    stages = set(back.figure_1.column("quantity").to_pylist())
    assert stages == {"singular_value", "neuron_norm"}
    assert set(back.geometry.column("kind").to_pylist()) >= set(page.KINDS)
    assert "NorMuon, paper's form" in page.results(back)
