"""Two processes on one run: real ones, beginning, resuming, dying and closing beside each other."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from optgeom.traces.errors import TraceError, TraceExists
from optgeom.traces.files.lock import LOCK_FILE, Lock, holder, is_held
from optgeom.traces.info import RUN_COPY, RUN_FILE, AttemptInfo, LayerInfo, RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import attempts, runfile
from optgeom.traces.writing.attempts import begin, reconciled
from optgeom.traces.writing.claims import claimed
from optgeom.traces.writing.runfile import read_run, replace_run

Record = Callable[..., None]

RUN = """
import sys
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
from optgeom.traces.errors import TraceError
out, start, name = sys.argv[1:]
columns = {"metrics": {"x": "float64", f"of_{name}": "float64"}}
info = RunInfo("run", layers=(LayerInfo(f"w.{name}", "other", None, (8, 4), "float32", "o", 0),),
               columns=columns)
print("ready", flush=True)
sys.stdin.readline()
try:
    writer = TraceWriter(out, info, start_step=None if start == "-" else int(start))
except TraceError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit()
key = Cell(int(start.strip("-") or 0), "o", f"w.{name}", "other", None, "update")
writer.metrics(key, {"x": float(writer.attempt)})
writer.flush()
print("writes", writer.attempt, flush=True)
sys.stdin.readline()
writer.close()
print("closed", writer.failure, flush=True)
"""


class Process:
    """One process that makes or resumes a run when it is told to."""

    def __init__(self, popen: subprocess.Popen[str]):
        self.popen = popen
        assert self.says() == "ready"

    def says(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()


@contextmanager
def process(out: Path, start: int | None, name: str) -> Iterator[Process]:
    arguments = [str(out), "-" if start is None else str(start), name]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


def hidden(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.name.startswith("."))


def test_of_two_that_make_a_trace_at_once_one_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with process(out, None, "a") as first, process(out, None, "b") as second:
        for one in (first, second):
            one.go_on()
        said = {one: one.says() for one in (first, second)}
        (won,) = [one for one, word in said.items() if word == "writes 0"]
        (lost,) = [word for one, word in said.items() if one is not won]
        assert lost.startswith("TraceExists ")
        assert "start_step=N" in lost
        won.go_on()
        assert won.says() == "closed None"
    trace = open_trace(out)
    assert trace.closed
    assert trace.metrics().num_rows == len(trace.info.attempts) == 1
    assert hidden(out) == [RUN_COPY]
    assert verify(out).ok


def test_of_two_that_resume_at_once_one_does(tmp_path: Path, trace_path: Path) -> None:
    with process(trace_path, 40, "a") as first, process(trace_path, 40, "b") as second:
        for one in (first, second):
            one.go_on()
        said = {one: one.says() for one in (first, second)}
        (won,) = [one for one, word in said.items() if word == "writes 1"]
        (lost,) = [one for one in said if one is not won]
        assert f"is being written by process {won.popen.pid} on " in said[lost]
        assert said[lost].startswith("TraceError ")
        won.go_on()
        assert won.says() == "closed None"
    trace = open_trace(trace_path)
    assert [one.attempt for one in trace.info.attempts] == [0, 1]
    assert trace.closed
    assert hidden(trace_path) == [RUN_COPY]


def test_beside_a_live_run_none_is_resumed_and_after_a_crash_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    info = RunInfo("run", columns={"metrics": {"x": "float64"}})
    with process(out, None, "a") as first:
        first.go_on()
        assert first.says() == "writes 0"
        assert is_held(out)
        before = (out / RUN_FILE).read_bytes()
        with pytest.raises(TraceError, match=r"is being written by process \d+ on .*: end that"):
            TraceWriter(out, info, start_step=1)
        assert (out / RUN_FILE).read_bytes() == before
        first.popen.send_signal(signal.SIGKILL)
        first.popen.wait()
    assert not is_held(out)
    # its heartbeat is fresh, and yet nobody need be warned
    with TraceWriter(out, info, start_step=1) as writer:
        assert writer.attempt == 1
    assert caplog.messages == []
    assert [bool(one.closed) for one in open_trace(out).info.attempts] == [False, True]


def test_a_stopped_process_that_closes_late_loses_nothing_of_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two machines that share a folder: neither sees the other's lock."""
    out = tmp_path / "run"
    with process(out, None, "a") as stale, process(out, 5, "b") as fresh:
        stale.go_on()
        assert stale.says() == "writes 0"
        stale.popen.send_signal(signal.SIGSTOP)
        (out / LOCK_FILE).unlink()
        fresh.go_on()
        assert fresh.says() == "writes 1"
        stale.popen.send_signal(signal.SIGCONT)
        stale.go_on()
        assert stale.says() == "closed None"
        told = read_run(out)
        assert [(one.attempt, bool(one.closed)) for one in told.attempts] == [(0, True), (1, False)]
        assert [one.name for one in told.layers] == ["w.a", "w.b"]
        assert {*told.columns["metrics"]} == {"x", "of_a", "of_b"}
        fresh.go_on()
        assert fresh.says() == "closed None"
    trace = open_trace(out)
    assert [bool(one.closed) for one in trace.info.attempts] == [True, True]
    assert trace.metrics().column("x").to_pylist() == [0.0, 1.0]
    assert (out / RUN_FILE).read_bytes() == (out / RUN_COPY).read_bytes()


def test_resuming_from_another_machine_warns_where_the_run_may_live(
    trace_path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    told = read_run(trace_path)
    replace_run(trace_path, replace(told, attempts=(AttemptInfo(0, 0, "2020-01-01"),)))
    (trace_path / LOCK_FILE).write_text("12 another-machine\n")
    TraceWriter(trace_path, info, start_step=40).close()
    (said,) = caplog.messages
    assert "attempt 0 still runs, on another machine" in said
    caplog.clear()
    replace_run(trace_path, replace(told, attempts=(AttemptInfo(0, 0, "2020-01-01"),)))
    os.utime(trace_path / RUN_FILE, (1e9, 1e9))
    TraceWriter(trace_path, info, start_step=40).close()
    assert caplog.messages == []


class TestLock:
    def test_one_holds_it(self, tmp_path: Path) -> None:
        lock = Lock.take(tmp_path)
        assert lock is not None
        assert lock.before == ""
        assert is_held(tmp_path)
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")
        assert Lock.take(tmp_path) is None
        lock.release()
        lock.release()
        assert not is_held(tmp_path)
        assert [*tmp_path.iterdir()] == []
        again = Lock.take(tmp_path)
        assert again is not None
        again.release()

    def test_a_child_does_not_keep_it(self, tmp_path: Path) -> None:
        code = f"""
import os, sys, time
from pathlib import Path
from optgeom.traces.files.lock import Lock
lock = Lock.take(Path({str(tmp_path)!r}))
child = os.fork()
if child == 0:
    for one in range(3):
        os.close(one)
    time.sleep(600)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == -signal.SIGKILL
        child = int(done.stdout)
        try:
            os.kill(child, 0)
            assert not is_held(tmp_path)
            lock = Lock.take(tmp_path)
            assert lock is not None
            assert lock.is_of_a_crash
            lock.release()
        finally:
            os.kill(child, signal.SIGKILL)


class TestClaims:
    def test_a_number_is_claimed_once(self, trace_path: Path, info: RunInfo) -> None:
        with claimed(trace_path, 1) as mine, claimed(trace_path, 1) as second:
            assert mine
            assert not second
            # as a process on another machine would see it
            assert begin(trace_path, info, 40).attempts[-1].attempt == 2
        assert hidden(trace_path) == [RUN_COPY]

    def test_a_stale_claim_is_none(self, trace_path: Path, info: RunInfo) -> None:
        stale = trace_path / ".claim-a0001"
        stale.touch()
        os.utime(stale, (1e9, 1e9))
        assert begin(trace_path, info, 40).attempts[-1].attempt == 1
        assert hidden(trace_path) == [RUN_COPY]

    def test_another_that_was_faster_after_the_look_gets_its_number(
        self, trace_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[Path] = []

        def read(where: Path) -> RunInfo:
            found = runfile.read_run(where)
            if not looked:
                looked.append(where)
                begin(where, info, 30)
            return found

        monkeypatch.setattr(attempts, "read_run", read)
        assert begin(trace_path, info, 40).attempts[-1].attempt == 2
        told = read_run(trace_path).attempts
        assert [(one.attempt, one.start_step) for one in told] == [(0, 0), (1, 30), (2, 40)]


class TestReconciled:
    OWN = RunInfo(
        "run",
        "then",
        capture={"every": 10},
        layers=(LayerInfo("a", "other", None, (2, 2), "float32", "o", 0),),
        columns={"metrics": {"x": "float64"}},
        attempts=(AttemptInfo(0, 0, "then", closed="later"),),
    )

    def test_the_newest_attempt_has_the_word_and_nothing_of_others_is_lost(self) -> None:
        there = replace(
            self.OWN,
            capture={"every": 20},
            layers=(LayerInfo("b", "other", None, (2, 2), "float32", "o", 0),),
            columns={"metrics": {"y": "float64"}, "spectra": {"z": "float64"}},
            attempts=(AttemptInfo(0, 0, "then"), AttemptInfo(1, 5, "then")),
        )
        for told in (reconciled(self.OWN, there), reconciled(there, self.OWN)):
            assert told.capture == {"every": 20}
            assert [one.name for one in told.layers] == ["a", "b"]
            assert told.columns == {
                "metrics": {"x": "float64", "y": "float64"},
                "spectra": {"z": "float64"},
            }
            assert told.attempts == (self.OWN.attempts[0], there.attempts[1])
        assert reconciled(self.OWN, self.OWN) == self.OWN

    def test_another_run_is_left_as_it_is(
        self, tmp_path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture
    ) -> None:
        with TraceWriter(tmp_path / "a", info) as writer:
            replace_run(tmp_path / "a", replace(writer.info, run="other"))
        assert isinstance(writer.failure, TraceError)
        assert "by now that of another run (other" in str(writer.failure)
        assert read_run(tmp_path / "a").run == "other"


class TestCopy:
    def test_it_has_the_same_bytes(self, tmp_path: Path, info: RunInfo, record: Record) -> None:
        with TraceWriter(tmp_path, info) as writer:
            for _ in range(2):
                assert (tmp_path / RUN_FILE).read_bytes() == (tmp_path / RUN_COPY).read_bytes()
                writer.amend(config={"late": 1})
                writer.flush()
            assert json.loads((tmp_path / RUN_COPY).read_bytes())["config"] == {"late": 1}
        assert (tmp_path / RUN_FILE).read_bytes() == (tmp_path / RUN_COPY).read_bytes()

    def test_one_that_cannot_be_written_is_said_once(
        self, tmp_path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / RUN_COPY).mkdir()
        with TraceWriter(tmp_path, info) as writer:
            writer.amend(config={"late": 1})
        assert writer.failure is None
        assert open_trace(tmp_path).closed
        assert [one.levelno for one in caplog.records] == [logging.WARNING]
        assert "copy of run.json" in caplog.text

    def test_a_run_json_that_was_damaged_is_written_anew(
        self, tmp_path: Path, info: RunInfo
    ) -> None:
        with TraceWriter(tmp_path, info):
            (tmp_path / RUN_FILE).write_bytes(b"{")
        assert open_trace(tmp_path).closed
        assert [one.attempt for one in open_trace(tmp_path).info.attempts] == [0]


def test_a_trace_that_exists_is_refused_before_anything_is_touched(
    trace_path: Path, info: RunInfo
) -> None:
    before = {one: one.stat().st_mtime_ns for one in (trace_path, *trace_path.iterdir())}
    with pytest.raises(TraceExists):
        TraceWriter(trace_path, info)
    assert before == {one: one.stat().st_mtime_ns for one in before}
