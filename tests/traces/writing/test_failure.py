"""A writer whose files cannot be written any more, as on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.files.lock import Lock
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import attempts, manifest, runfile, sink

MakeCell = Callable[..., Cell]
Record = Callable[..., None]

RUN = """
import json, logging, resource, sys
import numpy as np
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
logging.basicConfig(format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
layer = LayerInfo("w", "other", None, (256, 256), "float32", "o", 0)
writer = TraceWriter(sys.argv[1], RunInfo("run", layers=(layer,)), flush_every=1e6)
for step in range(30):
    key = Cell(step, "o", "w", "other", None, "update")
    writer.metrics(key, {"status": "ok"})
    writer.neurons(key, np.ones(256))
    writer.scalar(step, "loss", 1.0)
    if step in (10, 20):
        writer.update(key, np.zeros((256, 256), np.float32))
        writer.end_step(step)
        writer.flush()
writer.amend(config={"late": 1})
writer.flush()
writer.close()
writer.close()
json.dump(writer.dropped, sys.stdout)
"""


def test_a_matrix_that_does_not_fit_costs_no_row_that_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(out)], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["ERROR"] + ["WARNING"] * 3
    assert "File too large" in lines[0]
    assert "room" not in lines[0]  # no disk is full
    trace = open_trace(out)
    assert not trace.closed
    assert not trace.is_live
    assert trace.failed is not None
    assert trace.failed.startswith("OSError: [Errno 27] File too large")
    assert trace.failed in repr(trace)
    for table in ("metrics", "neurons"):
        assert trace.steps(table=table).tolist() == [*range(11)]
    assert trace.scalars("loss").num_rows == 11
    assert trace.steps(table="updates").tolist() == []
    assert json.loads(done.stdout) == {"metrics": 19, "neurons": 19, "scalars": 19, "updates": 2}
    report = verify(out)
    assert report.ok
    assert [one.message for one in report.findings] == [f"attempt 0 ended early: {trace.failed}"]
    assert [one.name for one in out.rglob(".*") if one.is_file()] == [".run-copy.json"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("in_store", [False, True])
def test_a_full_disk_is_said_with_what_can_be_done(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    info: RunInfo,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_store: bool,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink.RawLog, "add", fail)
    out = request.getfixturevalue("uri") if in_store else tmp_path / "run"
    with TraceWriter(out, info) as writer:
        record(writer, [0], raw=(0,))
    (said,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    full = "the disk of the trace is full"
    if in_store:
        full = f"the disk of {writer.path}, where records wait for the store (TMPDIR moves it), is"
    assert full in said
    assert said.endswith(
        "What is there can be read; nothing more is written, also when there is room: only a "
        "resume (start_step=) writes again"
    )
    assert open_trace(out).steps().tolist() == [0]


def test_what_waits_behind_the_failure_is_written_or_counted(
    tmp_path: Path,
    info: RunInfo,
    cell: MakeCell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "updates").write_text("a file where a folder should be")
    queued, add = threading.Event(), sink.RawLog.add

    def wait(self: sink.RawLog, row: dict[str, object]) -> None:
        queued.wait(20)
        add(self, row)

    monkeypatch.setattr(sink.RawLog, "add", wait)
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        for step in range(5):
            writer.update(cell(step), np.zeros((8, 4), np.float32))
            writer.end_step(step)
            writer.metrics(cell(step), {"status": "ok", "neuron_norm_cv": "no number"})
            writer.scalar(step, "loss", 1.0)
        writer.amend(config={"late": 1})
        queued.set()
    assert isinstance(writer.failure, FileExistsError)
    assert writer.dropped == {"updates": 5, "metrics.neuron_norm_cv": 5}
    assert [one.levelname for one in caplog.records].count("ERROR") == 1
    (tmp_path / "updates").unlink()
    trace = open_trace(tmp_path)
    assert trace.failed is not None
    assert trace.failed.startswith("FileExistsError: ")
    assert trace.metrics().num_rows == trace.scalars().num_rows == 5
    assert trace.info.config == {"late": 1}
    assert verify(tmp_path).ok


def test_matrices_of_an_open_step_count_as_dropped(
    tmp_path: Path, info: RunInfo, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with TraceWriter(tmp_path, info) as writer:
        for stage in ("momentum", "update"):
            for step in (0, 1):
                writer.update(cell(step, stage=stage), np.zeros((8, 4), np.float32))
        writer.end_step(0)
        writer.flush()
        monkeypatch.setattr(sink.SegmentWriter, "seal", fail)
        writer.metrics(cell(1), {"status": "ok"})
    assert writer.dropped == {"updates": 2}
    trace = open_trace(tmp_path)
    assert trace.failed == "OSError: [Errno 28] No space left on device"
    assert trace.steps(table="updates").tolist() == [0]
    # the row is in its stream, which could not be sealed
    assert trace.steps().tolist() == [1]
    assert verify(tmp_path).ok


@pytest.mark.parametrize("times", [1, 2, 99])
def test_run_json_that_cannot_be_replaced_is_never_closed(
    trace_path: Path,
    info: RunInfo,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    times: int,
) -> None:
    calls = []

    def fail(folder: Path, changed: RunInfo) -> None:
        calls.append(folder)
        if len(calls) <= times:
            raise OSError(28, "No space left on device")
        runfile.replace_run(folder, changed)

    with TraceWriter(trace_path, info, start_step=40) as writer:
        record(writer, [40])
        monkeypatch.setattr(attempts, "replace_run", fail)
    assert isinstance(writer.failure, OSError)
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    trace = open_trace(trace_path)
    assert not trace.closed
    assert trace.failed == ("OSError: [Errno 28] No space left on device" if times < 99 else None)
    assert trace.info.attempts[0].closed is not None
    assert trace.last_step == 40


def test_a_config_that_json_cannot_hold_does_not_hide_the_failure(
    tmp_path: Path, info: RunInfo
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.scalar(0, "loss", 1.0)
        writer.amend(config={"a": {(1, 2): 3}})
    assert isinstance(writer.failure, TypeError)
    trace = open_trace(tmp_path)
    assert trace.failed is not None
    assert trace.failed.startswith("TypeError: ")
    assert trace.info.config == info.config
    assert trace.scalars().num_rows == 1


def test_a_failed_run_is_resumed_like_any_other(
    tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sink.RawLog, "add", fail)
        with TraceWriter(tmp_path, info) as writer:
            record(writer, [0])
            record(writer, [10], raw=(10,))
    with TraceWriter(tmp_path, info, start_step=10) as writer:
        record(writer, [10, 20], raw=(10,))
    trace = open_trace(tmp_path)
    assert trace.closed
    assert trace.failed is None
    assert [one.failed is None for one in trace.info.attempts] == [False, True]
    assert trace.steps().tolist() == [0, 10, 20]
    assert trace.steps(table="updates").tolist() == [10]


@pytest.mark.parametrize("made", [0, 2])
def test_cells_that_cannot_be_made_are_counted(
    tmp_path: Path, info: RunInfo, cell: MakeCell, made: int
) -> None:
    def make() -> Iterator[tuple[Cell, dict[str, object], np.ndarray]]:
        for step in range(made):
            yield cell(step), {"status": "ok"}, np.ones(8, np.float32)
        raise ValueError("no more")

    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        writer.cells(make, 5, 100)
        assert not writer.flush()
    assert isinstance(writer.failure, ValueError)
    assert writer.dropped == {"metrics": 5 - made}
    assert open_trace(tmp_path).metrics().num_rows == made


def test_flush_tells_whether_everything_is_in_files(
    tmp_path: Path, info: RunInfo, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        assert writer.flush()
        writer.metrics(cell(0), {"status": "ok"})
        assert writer.flush()
        writer.metrics(cell(1), {"status": "ok", "neuron_norm_cv": "no number"})
        assert not writer.flush()
        assert writer.flush()  # of what was recorded since then nothing is missing
    assert writer.flush()
    writer.metrics(cell(2), {"status": "ok"})
    assert not writer.flush()


def test_a_lock_that_cannot_be_let_go_keeps_nobody_waiting(
    tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Lock) -> None:
        raise OSError(5, "Input/output error")

    writer = TraceWriter(tmp_path, info)
    with monkeypatch.context() as patch:
        patch.setattr(Lock, "release", fail)
        writer.close()
        asked = threading.Thread(target=writer.flush, daemon=True)
        asked.start()
        asked.join(20)
        assert not asked.is_alive()
    assert open_trace(tmp_path).closed


def test_what_failed_is_said_at_the_end_where_there_was_no_room_before(
    tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(sink.WriteAhead, "append", full)
            patch.setattr(manifest, "update_run", full)
            record(writer, [0])
            assert not writer.flush()
        assert open_trace(tmp_path).failed is None
    assert open_trace(tmp_path).failed == "OSError: [Errno 28] No space left on device"
