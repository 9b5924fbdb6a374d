from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import TraceError, TraceExists
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink

MakeCell = Callable[..., Cell]


def files(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


def test_an_existing_trace_names_both_ways_out(trace_path: Path, info: RunInfo) -> None:
    before = files(trace_path)
    with pytest.raises(TraceExists, match=r"another folder.*start_step=N"):
        TraceWriter(trace_path, info)
    assert files(trace_path) == before


@pytest.mark.parametrize("below", ["x", "x/y/z"])
def test_an_unwritable_folder_leaves_nothing(tmp_path: Path, info: RunInfo, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        TraceWriter(tmp_path / "file" / below, info)
    assert files(tmp_path) == ["file"]


def test_folders_made_for_a_writer_that_fails_are_removed(tmp_path: Path, info: RunInfo) -> None:
    with pytest.raises(TraceError, match=r"run\.json cannot hold"):
        TraceWriter(tmp_path / "x" / "y", replace(info, config={"a": {(1, 2): 3}}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["", "file://"])
def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TraceError, match=f"^'{out}' names no folder: .*$"):
        TraceWriter(out, info)
    assert list(tmp_path.iterdir()) == []


def test_bad_columns_leave_nothing(tmp_path: Path, info: RunInfo) -> None:
    with pytest.raises(TraceError, match="stand in both"):
        TraceWriter(
            tmp_path / "x",
            replace(info, columns={"metrics": {"a": "int64"}, "spectra": {"a": "int64"}}),
        )
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_in_the_folder_stay(tmp_path: Path, info: RunInfo) -> None:
    (tmp_path / "checkpoint.pt").write_text("weights")
    TraceWriter(tmp_path, info).close()
    assert files(tmp_path) == [".run-copy.json", "checkpoint.pt", "run.json"]


def test_closed_leaves_sealed_files_only(trace_path: Path) -> None:
    names = [one.rpartition("/")[2] for one in files(trace_path)]
    assert [name for name in names if name.startswith(".")] == [".run-copy.json"]
    assert len(names) == 2 + 4 + 2


def test_close_any_number_of_times_and_put_after(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    writer = TraceWriter(tmp_path, info)
    writer.close()
    writer.close()
    writer.flush()
    writer.metrics(cell(1), {})
    writer.scalar(1, "loss", 1.0)
    assert writer.dropped == {"metrics": 1, "scalars": 1}
    assert open_trace(tmp_path).info.attempts[0].closed is not None


def test_writing_imports_neither_torch_nor_pandas_nor_dataset(tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
from optgeom.traces import Cell, RunInfo, TraceWriter
with TraceWriter({str(tmp_path / "x")!r}, RunInfo("x")) as writer:
    key = Cell(0, "o", "w", "other", None, "update")
    writer.metrics(key, {{"status": "ok", "lr": 0.1}})
    writer.spectrum(key, np.ones(3), {{}})
    writer.update(key, np.ones((2, 2), np.float32))
    writer.end_step(0)
assert writer.failure is None, writer.failure
print([m for m in ("torch", "pandas", "pyarrow.dataset", "dash") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_flushed_is_seen_at_once(tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        writer.metrics(cell(3), {"status": "ok"})
        writer.flush()
        assert open_trace(tmp_path).metrics().num_rows == 1


def test_a_flush_comes_by_itself(tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
    with TraceWriter(tmp_path, info, flush_every=0.01) as writer:
        writer.metrics(cell(3), {"status": "ok"})
        seen = threading.Event()
        for _ in range(500):
            if open_trace(tmp_path).metrics().num_rows == 1:
                seen.set()
                break
            seen.wait(0.02)
        assert seen.is_set()


def test_large_tables_are_sealed_while_the_run_goes_on(
    tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "SEAL_ROWS", 100)
    with TraceWriter(tmp_path, info) as writer:
        for step in range(250):
            writer.scalar(step, "loss", float(step))
            if step % 60 == 59:
                writer.flush()
        assert len(list((tmp_path / "scalars").glob("*.parquet"))) == 2
    trace = open_trace(tmp_path)
    assert trace.scalars("loss").column("value").to_pylist() == [float(s) for s in range(250)]


def test_a_full_queue_drops_and_counts(
    tmp_path: Path, info: RunInfo, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    seal = sink.RawLog.end_step

    def wait(self: sink.RawLog, step: int) -> None:
        held.wait(20)
        seal(self, step)

    monkeypatch.setattr(sink.RawLog, "end_step", wait)
    with TraceWriter(tmp_path, info, queue_bytes=20_000) as writer:
        writer.end_step(0)
        for step in range(100):
            writer.update(cell(step), np.zeros((8, 4), np.float32))
        held.set()
    kept = len(open_trace(tmp_path).steps(table="updates"))
    assert 20 <= kept < 100
    assert writer.dropped == {"updates": 100 - kept}
    assert writer.failure is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_full_queue_makes_the_caller_wait_if_that_is_asked_for(
    tmp_path: Path, info: RunInfo, cell: MakeCell, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    held = threading.Event()
    seal = sink.RawLog.end_step

    def slow(self: sink.RawLog, step: int) -> None:
        assert held.wait(20)
        if fails:
            raise OSError("broken on purpose")
        seal(self, step)

    monkeypatch.setattr(sink.RawLog, "end_step", slow)
    writer = TraceWriter(tmp_path, info, queue_bytes=5_000, wait=True)
    writer.end_step(0)

    def put() -> None:
        for step in range(40):
            writer.update(cell(step), np.zeros((8, 4), np.float32))

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()  # it waits, and the queue does not grow
    assert writer.raw_bytes < 5_000
    held.set()
    thread.join(20)
    assert not thread.is_alive()
    writer.close()
    assert writer.dropped["updates"] == (40 if fails else 0)
    if not fails:
        assert len(open_trace(tmp_path).steps(table="updates")) == 40
        assert 40 * 128 <= writer.raw_bytes <= 40 * 1024


def test_a_run_that_raised_is_marked_failed_and_has_all_its_records(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    def run() -> None:
        with TraceWriter(tmp_path, info) as writer:
            writer.metrics(cell(3), {"neuron_norm_cv": 1.0})
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="luck"):
        run()
    trace = open_trace(tmp_path)
    assert trace.failed == "RuntimeError: out of luck"
    assert not trace.closed
    assert trace.metrics().num_rows == 1


def test_a_matrix_larger_than_the_queue_passes_an_empty_one(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    with TraceWriter(tmp_path, info, queue_bytes=10) as writer:
        writer.update(cell(1), np.zeros((8, 4), np.float32))
    assert not writer.dropped


def test_wrong_records_are_counted_not_raised(
    tmp_path: Path, info: RunInfo, cell: MakeCell, caplog: pytest.LogCaptureFixture
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.metrics(cell(1), {"neuron_norm_cv": 0.5, "no_such_metric": 1.0})
        writer.metrics(cell(2), {"neuron_norm_cv": object(), "status": "ok"})
        writer.metrics(cell(3), {"neuron_norm_cv": np.float32(0.25), "rank_of_it": np.int64(3)})
        writer.metrics(cell(4), {"neuron_norm_cv": np.array(0.75), "note": 7})
        writer.spectrum(cell(1), "abc", {})  # type: ignore[arg-type]  # wrong on purpose
        writer.neurons(cell(1), [[1], [2, 3]])  # type: ignore[arg-type]  # wrong on purpose
        writer.update(cell(1), np.zeros((8, 4), np.float32), dtype="float64")
        writer.update(cell(1), np.zeros((8, 4), np.float32), dtype="int7")
        writer.update(cell(1), object(), rows=8)
    assert writer.failure is None
    assert writer.dropped == {
        "metrics.no_such_metric": 1,
        "metrics.neuron_norm_cv": 1,
        "spectra": 1,
        "neurons": 1,
        "updates": 3,
    }
    assert len([one for one in caplog.records if "updates" in one.message]) == 1
    rows = open_trace(tmp_path).metrics().to_pylist()
    assert [row["neuron_norm_cv"] for row in rows] == [0.5, None, 0.25, 0.75]
    assert [row["note"] for row in rows] == [None, None, None, "7"]
    assert rows[2]["rank_of_it"] == 3


def test_a_failure_of_the_thread_is_kept_and_said_once(
    tmp_path: Path,
    info: RunInfo,
    cell: MakeCell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writer = TraceWriter(tmp_path, info)
    writer.metrics(cell(0), {"status": "ok"})
    writer.flush()
    monkeypatch.setattr(sink.WriteAhead, "append", fail)
    writer.metrics(cell(1), {"status": "ok"})
    writer.flush()
    assert isinstance(writer.failure, OSError)
    writer.metrics(cell(2), {"status": "ok"})
    writer.end_step(2)
    writer.flush()
    writer.close()
    assert writer.dropped == {"metrics": 2}
    assert len([one for one in caplog.records if "No space left" in one.message]) == 1
    assert open_trace(tmp_path).steps().tolist() == [0]


def test_the_array_may_change_after_neurons_and_spectrum(
    tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
) -> None:
    values = np.arange(8, dtype=np.float32)
    with TraceWriter(tmp_path, info) as writer:
        writer.neurons(cell(1), values)
        writer.spectrum(cell(1), values[:4], {})
        values[:] = -1
    trace = open_trace(tmp_path)
    assert trace.neuron_norms(1, layers[0].name).tolist() == [*map(float, range(8))]
    assert trace.spectrum(1, layers[0].name).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_amend_replaces_run_json(tmp_path: Path, info: RunInfo) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.amend(capture={"every": 20})
        writer.flush()
        assert open_trace(tmp_path).info.capture == {"every": 20}
    assert open_trace(tmp_path).info.layers == info.layers


def test_bytes_written_counts(trace_path: Path, info: RunInfo, cell: MakeCell) -> None:
    with TraceWriter(trace_path, info, start_step=40) as writer:
        assert writer.bytes_written == 0
        writer.update(cell(40), np.ones((8, 4), np.float32))
        writer.end_step(40)
        writer.flush()
        assert writer.bytes_written > 8 * 4 * 4


class TestAttempts:
    def test_a_resumed_run_is_a_new_attempt(
        self, trace_path: Path, info: RunInfo, record: Callable[..., None]
    ) -> None:
        with TraceWriter(trace_path, replace(info, run="other"), start_step=20) as writer:
            assert writer.attempt == 1
            record(writer, [20, 30, 40], plus=0.5)
        trace = open_trace(trace_path)
        assert [(one.attempt, one.start_step) for one in trace.info.attempts] == [(0, 0), (1, 20)]
        assert trace.info.run == "a"
        assert set(trace.metrics().column("run").to_pylist()) == {"a"}

    def test_layers_and_columns_are_united(self, trace_path: Path, info: RunInfo) -> None:
        more = replace(info.layers[0], name="blocks.1.up.weight", block=1)
        columns = {"metrics": {"fresh": "float64"}}
        changed = replace(info, layers=(more,), columns=columns)
        TraceWriter(trace_path, changed, start_step=20).close()
        trace = open_trace(trace_path)
        assert [one.name for one in trace.layers] == [*(one.name for one in info.layers), more.name]
        assert trace.metrics().column("fresh").null_count == trace.metrics().num_rows > 0

    def test_another_model_is_refused(self, trace_path: Path, info: RunInfo) -> None:
        before = (trace_path / "run.json").read_bytes()
        other = replace(info, layers=(replace(info.layers[0], shape=(9, 9)),))
        with pytest.raises(TraceError, match=r"\(9, 9\) here and \(8, 4\)"):
            TraceWriter(trace_path, other, start_step=20)
        retyped = replace(info, columns={"metrics": {"rank_of_it": "float64"}})
        with pytest.raises(TraceError, match=r"rank_of_it is float64 here and int64"):
            TraceWriter(trace_path, retyped, start_step=20)
        assert (trace_path / "run.json").read_bytes() == before

    def test_start_step_without_a_trace_begins_one(self, tmp_path: Path, info: RunInfo) -> None:
        TraceWriter(tmp_path / "new", info, start_step=100).close()
        assert open_trace(tmp_path / "new").info.attempts[0].start_step == 100


class TestRanks:
    def test_every_rank_writes_and_rank_0_alone_describes(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
    ) -> None:
        up = layers[0]
        other = TraceWriter(tmp_path, info, rank=1)
        assert files(tmp_path) == [".lock-r00001"]
        first = TraceWriter(tmp_path, info, rank=0)
        whole = np.arange(32, dtype=np.float32).reshape(8, 4)
        for rank, writer in enumerate((first, other)):
            rows = slice(5 * rank, 5 + 3 * rank)
            writer.neurons(cell(0), np.arange(8)[rows], row_start=5 * rank)
            writer.update(cell(0), whole[rows], row_start=5 * rank)
            writer.scalar(0, "loss", float(rank))
        first.metrics(cell(0), {"status": "ok"})
        other.close()
        assert not open_trace(tmp_path).closed
        first.close()
        trace = open_trace(tmp_path)
        assert trace.closed
        assert trace.neuron_norms(0, up.name).tolist() == [*map(float, range(8))]
        assert np.array_equal(trace.matrix(0, up.name), whole)
        assert trace.scalars("loss").column("value").to_pylist() == [0.0]
        assert trace.metrics().num_rows == 1

    def test_a_resumed_rank_must_be_told_its_attempt(
        self, trace_path: Path, info: RunInfo, cell: MakeCell
    ) -> None:
        with pytest.raises(TraceError, match="attempt="):
            TraceWriter(trace_path, info, rank=1, start_step=20)
        first = TraceWriter(trace_path, info, start_step=20)
        with TraceWriter(trace_path, info, rank=1, start_step=20, attempt=first.attempt) as second:
            second.metrics(cell(20), {"status": "from rank 1"})
        first.close()
        rows = open_trace(trace_path).metrics(steps=20).to_pylist()
        assert [row["status"] for row in rows] == ["from rank 1"]
