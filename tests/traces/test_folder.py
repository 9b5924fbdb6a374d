from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import DamagedTrace, NotATrace, NotCaptured
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace, open_traces
from optgeom.traces.writer import TraceWriter


@pytest.fixture
def runs(trace_path: Path, info: RunInfo, cell: Callable[..., Cell]) -> Path:
    """Two runs that both call themselves "a"; the second has a column and a stage of its own."""
    folder = trace_path.parent
    columns = {"metrics": {"neuron_norm_cv": "float64", "fresh": "string"}}
    with TraceWriter(folder / "b", replace(info, columns=columns)) as writer:
        writer.metrics(cell(0, stage="ns_input"), {"fresh": "yes"})
    (folder / "notes").mkdir()
    return folder


def test_a_mapping_by_name(runs: Path) -> None:
    traces = open_traces(runs)
    assert list(traces) == ["a", "b"]
    assert traces["a"].last_step == 30
    with pytest.raises(KeyError, match="there are a, b"):
        traces["c"]
    assert repr(traces).endswith(": a, b>")


def test_metrics_of_all_runs_by_the_traces_name(runs: Path) -> None:
    table = open_traces(runs).metrics()
    counts = table.column("run").combine_chunks().value_counts().to_pylist()
    assert {one["values"]: one["counts"] for one in counts} == {"a": 24, "b": 1}
    assert table.column("fresh").to_pylist()[-1] == "yes"
    assert table.column("fresh").null_count == 24
    table.to_pandas()


def test_a_trace_that_lacks_what_is_asked_is_left_out(runs: Path) -> None:
    traces = open_traces(runs)
    assert traces.metrics(stages="ns_input").num_rows == 1
    assert traces.metrics(stages="momentum").num_rows == 12
    with pytest.raises(NotCaptured, match="gradient"):
        traces.metrics(stages="gradient")


def test_refresh_takes_up_new_runs(runs: Path, info: RunInfo) -> None:
    traces = open_traces(runs)
    kept, version = traces["a"], traces.version
    assert not traces.refresh()
    TraceWriter(runs / "c", info).close()
    assert traces.refresh()
    assert list(traces) == ["a", "b", "c"]
    assert traces["a"] is kept
    assert traces.version != version


def test_a_damaged_run_json_costs_no_other_run(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = runs / "b" / "run.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    traces = open_traces(runs)
    assert list(traces) == ["a"]
    assert traces.metrics().num_rows == 24
    assert list(traces.damaged) == ["b"]
    assert repr(traces).endswith(": a; damaged: b>")
    assert "b" not in traces
    with pytest.raises(KeyError, match=r"b/run\.json is damaged"):
        traces["b"]
    with pytest.raises(DamagedTrace, match=r"b/run\.json is damaged"):
        open_trace(runs / "b")
    version = traces.version
    assert not traces.refresh()
    assert [(one.levelname, "b is left out" in one.message) for one in caplog.records] == [
        ("WARNING", True)
    ]
    file.write_bytes(whole)
    assert traces.refresh()
    assert list(traces) == ["a", "b"]
    assert not traces.damaged
    assert traces.version != version


def test_a_run_json_damaged_while_it_is_followed(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    traces = open_traces(runs)
    for name in "ab":
        file = runs / name / "run.json"
        file.write_bytes(file.read_bytes()[:-50])
        assert traces.refresh()
        assert not traces.refresh()
    assert not list(traces)
    assert sorted(traces.damaged) == ["a", "b"]
    assert repr(traces).endswith(": none; damaged: a, b>")
    assert len(caplog.records) == 2
    with pytest.raises(DamagedTrace, match=r"a/run\.json"):
        traces.metrics()
    with pytest.raises(DamagedTrace, match=r"a/run\.json"):
        open_traces(runs)


def test_runs_are_followed_where_they_were_opened(
    runs: Path, info: RunInfo, cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    alone, traces = open_trace("b"), open_traces(".")
    monkeypatch.chdir(runs / "notes")
    with TraceWriter(runs / "b", info, start_step=5) as writer:
        writer.update(cell(5), np.ones((8, 4), np.float32))
    TraceWriter(runs / "c", info).close()
    assert alone.refresh()
    assert traces.refresh()
    assert list(traces) == ["a", "b", "c"]
    for trace in (alone, traces["b"]):
        assert trace.name == "b"
        assert trace.folder() == runs / "b"
        assert len(list(trace.matrices())) == 1


def test_an_empty_path_is_not_the_current_folder(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    with pytest.raises(NotATrace, match=r"^an empty path is no folder: .*$"):
        open_traces("")
    monkeypatch.chdir(runs / "a")
    with pytest.raises(NotATrace, match=r"^an empty path is no folder: .*$"):
        open_trace("")
    assert open_trace(".").name == "a"


def test_the_wrong_kind_names_the_way_out(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(NotATrace, match="is one trace: use open_trace"):
        open_traces(runs / "a")
    with pytest.raises(NotATrace, match=r"holds no traces: pass the folder"):
        open_traces(runs / "notes")
    with pytest.raises(NotATrace, match="is no folder"):
        open_traces(runs / "nope")
    deeper = runs.rename(tmp_path.parent / f"{tmp_path.name}-above") / "deeper"
    deeper.mkdir()
    for name in "ab":
        (deeper.parent / name).rename(deeper / name)
    with pytest.raises(NotATrace, match="holds no traces, its folder 'deeper' does: pass that"):
        open_traces(deeper.parent)
