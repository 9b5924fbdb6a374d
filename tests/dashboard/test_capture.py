"""The tables of the Runs page: how a run was made, and what capture cost or left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

import optgeom
from optgeom.dashboard.capture import configuration, cost
from optgeom.traces.info import OptimizerInfo
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter


def _spent(trace: Trace) -> dict[str, str]:
    return {row.name: row.values[0] for row in cost([trace])}


def test_rows_left_out_are_summed_or_taken_as_running_totals(
    fake: ModuleType, tmp_path: Path
) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, close=False)
    for step, (budget, queue) in enumerate([(3, 0), (4, 2), (0, 5)]):
        writer.scalar(10 * step, "rows_left_out.budget", float(budget))
        writer.scalar(10 * step, "rows_left_out.queue", float(queue))
        writer.scalar(10 * step, "rows_left_out.writer", 0.0)
    writer.close()
    assert _spent(open_trace(tmp_path / "x"))["rows left out"] == "budget 7, queue 5"


def test_a_resumed_runs_totals_are_of_both_attempts(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0, 10), close=False)
    writer.scalar(0, "rows_left_out.writer", 2.0)
    writer.scalar(10, "rows_left_out.writer", 6.0)
    writer.close()
    later = fake.write_run(
        tmp_path / "x", "muon", blocks=1, steps=(20, 30), start_step=20, close=False
    )
    later.scalar(20, "rows_left_out.writer", 1.0)
    later.scalar(30, "rows_left_out.writer", 3.0)
    later.close()
    assert _spent(open_trace(tmp_path / "x"))["rows left out"] == "writer 9"


def test_a_watched_run_knows_that_nothing_was_left_out(broken: ModuleType, tmp_path: Path) -> None:
    spent = _spent(open_trace(broken.train(tmp_path / "x")))
    assert spent["rows left out"] == "none"
    assert spent["state"] == "ended"
    assert spent["share of the run"].endswith(" %")
    assert spent["capture time"].endswith(" s")


def test_a_trace_without_counts_claims_nothing(fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "x", "muon", blocks=1)
    assert _spent(open_trace(tmp_path / "x"))["rows left out"] == "\N{EM DASH}"


def test_a_stopped_capture_is_said(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, close=False)
    writer.scalar(1230, "capture_stopped", 1.0)
    writer.close()
    state = _spent(open_trace(tmp_path / "x"))["state"]
    assert state == "ended \N{MIDDLE DOT} capture stopped at step 1,230"


def test_a_writer_that_failed_is_said(fake: ModuleType, tmp_path: Path) -> None:
    writer: TraceWriter = fake.write_run(tmp_path / "x", "muon", blocks=1, close=False)
    (tmp_path / "x" / "neurons").rename(tmp_path / "away")
    (tmp_path / "x" / "neurons").write_text("")
    fake.put_steps(writer, "muon", (50,))
    writer.close()
    assert writer.failure is not None
    (tmp_path / "x" / "neurons").unlink()
    trace = open_trace(tmp_path / "x")
    failed = trace.info.attempts[-1].failed
    assert failed
    assert _spent(trace)["state"] == f"failed: {failed}"


def test_a_group_is_listed_by_its_settings_not_its_members(
    fake: ModuleType, tmp_path: Path
) -> None:
    model = torch.nn.Linear(4, 4, bias=False)
    named = [{"params": list(model.named_parameters()), "lr": 0.125}]
    optimizer = torch.optim.SGD(named)
    with optgeom.watch(model, optimizer, out=tmp_path / "watched", every=1):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    written = fake.write_run(tmp_path / "x", "muon", blocks=1, close=False)
    written.close()
    held = OptimizerInfo("optimizer", "torch.optim.sgd.SGD", ({"lr": 0.1, "param_names": "a, b"},))
    TraceWriter(tmp_path / "old", replace(written.info, optimizers=(held,), attempts=())).close()
    for run, rate in (("watched", "0.125"), ("old", "0.1")):
        rows = {row.name: row.values[0] for row in configuration([open_trace(tmp_path / run)])}
        assert rows["group 0 · lr"] == rate
        assert not [name for name in rows if "param" in name]
