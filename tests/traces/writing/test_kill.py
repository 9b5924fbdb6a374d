"""What kill -9 leaves: real processes, killed in mid-run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from tests.traces.objects import Objects

RUN = """
import sys, time
from pathlib import Path
import numpy as np
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
out, start, flushed, last = sys.argv[1], *map(int, sys.argv[2:])
layer = LayerInfo("w", "other", None, (8, 4), "float32", "o", 0)
info = RunInfo("run", layers=(layer,), columns={"metrics": {"x": "float64"}})
writer = TraceWriter(out, info, start_step=start if start >= 0 else None, flush_every=1e6)
for step in range(max(start, 0), last):
    key = Cell(step, "o", "w", "other", None, "update")
    writer.metrics(key, {"x": float(step), "status": "ok"})
    writer.spectrum(key, np.full(4, step, np.float32), {})
    writer.neurons(key, np.full(8, step, np.float32))
    writer.update(key, np.full((8, 4), step, np.float32))
    writer.scalar(step, "loss", float(step))
    if step < flushed:
        writer.end_step(step)
    if step + 1 == flushed:
        writer.flush()
while last > flushed and not list(Path(out, "updates").glob(".tmp-*")):
    time.sleep(0.01)
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run_and_kill(tmp_path: Path) -> Callable[..., Path]:
    def run(start: int, flushed: int, last: int) -> Path:
        out = tmp_path / "run"
        command = [sys.executable, "-c", RUN, str(out), str(start), str(flushed), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        return out

    return run


def test_a_killed_run_holds_all_but_the_last_flush_interval(
    run_and_kill: Callable[..., Path],
) -> None:
    out = run_and_kill(-1, 20, 25)
    trace = open_trace(out)
    assert not trace.closed
    assert trace.metrics().column("x").to_pylist() == [float(step) for step in range(20)]
    assert len(trace.spectra("w")[1]) == 20
    assert trace.neurons("w")[1][:, 0].tolist() == [float(step) for step in range(20)]
    assert trace.scalars("loss").num_rows == 20
    assert [key.step for key, _ in trace.matrices()] == [*range(20)]
    report = verify(out)
    assert report.ok
    assert any(".tmp-" in one.file for one in report.findings)


def test_a_second_attempt_goes_on(run_and_kill: Callable[..., Path]) -> None:
    run_and_kill(-1, 20, 20)
    out = run_and_kill(15, 30, 30)
    trace = open_trace(out)
    table = trace.metrics()
    assert table.column("step").to_pylist() == [*range(30)]
    assert table.column("attempt").to_pylist() == [0] * 15 + [1] * 15
    assert trace.metrics(attempts="all").num_rows == 35
    assert trace.scalars("loss").num_rows == 30
    assert len(list(trace.matrices())) == 30


@pytest.mark.parametrize("call", range(1, 9))
def test_killed_at_any_call_while_sealing_no_row_is_lost_or_doubled(
    tmp_path: Path, call: int
) -> None:
    """The process dies at the n-th rename, removal or fsync of the closing."""
    code = f"""
import os, pathlib, signal
import numpy as np
from optgeom.traces import Cell, RunInfo, TraceWriter
writer = TraceWriter({str(tmp_path / "run")!r}, RunInfo("run"))
for step in range(5):
    writer.metrics(Cell(step, "o", "w", "other", None, "update"), {{"status": "ok"}})
    writer.scalar(step, "loss", 1.0)
writer.flush()
count = 0
def dying(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
pathlib.Path.replace = dying(pathlib.Path.replace)
pathlib.Path.unlink = dying(pathlib.Path.unlink)
os.fsync = dying(os.fsync)
writer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    trace = open_trace(tmp_path / "run")
    assert trace.metrics(attempts="all").column("step").to_pylist() == [*range(5)]
    assert trace.scalars().num_rows == 5
    assert verify(tmp_path / "run").ok


def test_a_forked_child_neither_writes_nor_waits(
    tmp_path: Path, info: RunInfo, cell: Callable[..., Cell], layers: tuple[LayerInfo, ...]
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        child = os.fork()
        if child == 0:
            writer.neurons(cell(1), np.ones(8))
            writer.flush()
            writer.close()
            os._exit(0 if writer.dropped == {"neurons": 1} else 1)
        assert os.waitpid(child, 0)[1] == 0
        writer.neurons(cell(0), np.ones(8))
    trace = open_trace(tmp_path)
    assert trace.neurons(layers[0].name)[0].tolist() == [0]


def test_nor_does_one_whose_parent_held_every_lock(
    objects: Objects, uri: str, info: RunInfo, cell: Callable[..., Cell], quick: None
) -> None:
    with TraceWriter(uri, info) as writer:
        assert writer._mirror is not None
        with writer._changed, writer._mirror.room._lock:  # as another thread may at the fork
            child = os.fork()
        if child == 0:
            signal.alarm(20)
            writer.metrics(cell(1), {"status": "ok"})
            writer.update(cell(1), np.ones((8, 4), np.float32))
            writer.end_step(1)
            writer.amend(config={})
            kept = writer.flush()
            writer.close()
            os._exit(0 if writer.dropped == {"metrics": 1, "updates": 1} and not kept else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_run_that_forgets_to_close_is_closed_at_exit(tmp_path: Path) -> None:
    code = f"""
from optgeom.traces import RunInfo, TraceWriter
writer = TraceWriter({str(tmp_path / "run")!r}, RunInfo("run"), flush_every=1e6)
writer.scalar(0, "loss", 1.0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    trace = open_trace(tmp_path / "run")
    assert trace.closed
    assert trace.scalars().num_rows == 1
