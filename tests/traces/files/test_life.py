"""Who may still write a run, as compact, repair, Trace.is_live and a resuming writer see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from optgeom.traces import open_trace
from optgeom.traces.errors import TraceError
from optgeom.traces.files.life import Life, heard_from
from optgeom.traces.files.listing import trace_entries
from optgeom.traces.files.lock import is_lock
from optgeom.traces.files.place import Entry, find
from optgeom.traces.info import AttemptInfo, RunInfo
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.repair import repair
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import PartName
from optgeom.traces.schema import Cell
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.runfile import read_run, replace_run
from tests.traces.objects import Objects

MINUTES = 60.0
RANK = """
import sys
from optgeom.traces import Cell, RunInfo, TraceWriter
path, rank = sys.argv[1], int(sys.argv[2])
info = RunInfo("run", world_size=2, columns={"metrics": {"x": "float64"}})
writer = TraceWriter(path, info, rank=rank, flush_every=1e6)
for step in range(100 * rank, 100 * rank + 3):
    writer.metrics(Cell(step, "o", "wide", "mlp.up", 0, "update"), {"x": 1.0})
writer.flush()
for line in sys.stdin:
    writer.metrics(Cell(int(line), "o", "wide", "mlp.up", 0, "update"), {"x": 1.0})
    writer.flush()
    print("written", flush=True)
writer.close()
"""
Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a rank of a run of two in a process of its own, which has recorded three steps."""
    begun: list[subprocess.Popen[str]] = []

    def one(rank: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "run"), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        go_on(process, 100 * rank + 3)
        return process

    yield one
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{step}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate()


def age(path: Path, seconds: float) -> None:
    """As if nobody had written to it for so long."""
    for one in [*path.rglob("*"), path]:
        os.utime(one, (time.time() - seconds,) * 2)


def steps(path: Path) -> list[int]:
    return open_trace(path).metrics().column("step").to_pylist()


def forget_locks(path: Path) -> None:
    """As it is seen from another machine."""
    for one in path.iterdir():
        if is_lock(one.name):
            one.unlink()


class TestRanks:
    def test_what_a_rank_writes_is_left_to_it_however_rarely_it_records(
        self, tmp_path: Path, start: Start
    ) -> None:
        path = tmp_path / "run"
        zero, one = start(0), start(1)
        end(zero)
        age(path, 1e8)
        stream = path / "metrics" / PartName(0, 1, 0).file
        made = compact(path)
        assert [one.file for one in made.left] == [f"metrics/{stream.name}"]
        assert f"process {one.pid} on " in made.left[0].why
        assert stream.exists()
        with pytest.raises(TraceError, match=f"process {one.pid} on .* is writing it"):
            repair(path)
        go_on(one, 104)
        assert steps(path) == [*range(4), *range(100, 105)]
        end(one)
        made = compact(path)
        assert not made.left
        assert repair(path) == ()
        assert steps(path) == [*range(4), *range(100, 105)]

    def test_those_that_were_killed_here_are_known_to_be_dead(
        self, tmp_path: Path, start: Start
    ) -> None:
        path = tmp_path / "run"
        zero, one = start(0), start(1)
        end(zero, kill=True)
        assert not compact(path).sealed
        end(one, kill=True)
        made = compact(path)
        assert len(made.sealed) == 2
        assert not made.left
        assert steps(path) == [*range(4), *range(100, 104)]
        assert repair(path) == ()

    def test_of_one_that_is_not_seen_an_hour_of_quiet_is_asked(
        self, tmp_path: Path, start: Start
    ) -> None:
        path = tmp_path / "run"
        zero, one = start(0), start(1)
        end(zero)
        end(one, kill=True)
        forget_locks(path)
        age(path, 50 * MINUTES)
        (left,) = compact(path).left
        assert left.file == f"metrics/{PartName(0, 1, 0).file}"
        assert "written 300" in left.why
        assert "a run of 2 processes" in left.why
        assert "quiet for an hour" in left.why
        with pytest.raises(TraceError, match="quiet for an hour, and repair it then"):
            repair(path)
        age(path, 61 * MINUTES)
        assert compact(path).sealed == (left.file,)
        assert repair(path) == ()
        assert steps(path) == [*range(4), *range(100, 104)]

    def test_a_run_that_all_of_them_have_closed_is_repaired_at_once(
        self, tmp_path: Path, start: Start
    ) -> None:
        path = tmp_path / "run"
        for process in (start(0), start(1)):
            end(process)
        (victim,) = (path / "metrics").glob("*-r00001-*.parquet")
        data = bytearray(victim.read_bytes())
        data[50] ^= 4
        victim.write_bytes(data)
        assert not verify(path).ok
        assert [one.file for one in repair(path)] == [f"metrics/{victim.name}"]
        assert steps(path) == [*range(4)]

    def test_in_an_object_store_too(self, tmp_path: Path, start: Start, objects: Objects) -> None:
        path = tmp_path / "run"
        zero, one = start(0), start(1)
        end(zero)
        end(one, kill=True)
        objects.upload(path, "life/run")
        made = compact(objects.uri("life/run"))
        assert not made.sealed
        assert ["quiet for an hour" in one.why for one in made.left] == [True]


CLOSED = AttemptInfo(0, 0, "then", closed="later")
OPEN = AttemptInfo(0, 0, "then")


@pytest.mark.parametrize(
    ("attempt", "processes", "rank", "seconds", "may"),
    [
        (OPEN, 1, 0, 50, "quiet for a minute"),
        (OPEN, 1, 0, 70, ""),
        (CLOSED, 1, 0, 0, ""),
        (replace(OPEN, failed="OSError: full"), 1, 0, 0, ""),
        (OPEN, 2, 0, 70, "quiet for an hour"),
        (OPEN, 2, 0, 3500, "quiet for an hour"),
        (OPEN, 2, 0, 3700, ""),
        (CLOSED, 2, 0, 0, ""),
        (CLOSED, 2, 1, 3500, "quiet for an hour"),
        (CLOSED, 2, 1, 3700, ""),
        (AttemptInfo(1, 0, "then"), 2, 1, 0, ""),
        (None, 1, 0, 50, "quiet for a minute"),
        (None, 1, 1, 70, "a run of 2 processes"),
    ],
)
def test_where_no_lock_is_seen(
    tmp_path: Path, attempt: AttemptInfo | None, processes: int, rank: int, seconds: int, may: str
) -> None:
    """Of a stream of attempt 0; None: run.json cannot be read."""
    info = None
    if attempt is not None:
        info = RunInfo("run", world_size=processes, attempts=(attempt,))
    stream = PartName(0, rank, 0)
    changed = time.time_ns() - seconds * 1_000_000_000
    entries = {
        f"metrics/{stream.file}": Entry(1, changed),
        "metrics/a.parquet": Entry(1, 0),
        "derived/later/a.parquet": Entry(1, time.time_ns()),
    }
    said = Life(find(tmp_path), info, entries).of(stream)
    assert may in said
    assert bool(may) == bool(said)


def test_an_analysis_does_not_make_a_run_look_alive() -> None:
    long_ago, now = Entry(1, 0), Entry(1, time.time_ns())
    info = RunInfo("run", attempts=(OPEN,))
    assert heard_from(info, {"run.json": long_ago, "derived/x/a.parquet": now}) is None
    assert heard_from(info, {"run.json": long_ago, "metrics/a.parquet": now}) == pytest.approx(
        0, abs=10
    )
    assert heard_from(replace(info, attempts=(CLOSED,)), {"run.json": now}) is None


def test_a_stream_of_the_attempt_before_is_left_to_a_rank_that_outlived_it(
    tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "run"
    end(start(0), kill=True)
    one = start(1)
    with TraceWriter(path, replace(read_run(path), world_size=1), start_step=4) as writer:
        writer.metrics(Cell(4, "o", "wide", "mlp.up", 0, "update"), {"x": 1.0})
    made = compact(path)
    assert [one.file for one in made.left] == [f"metrics/{PartName(0, 1, 0).file}"]
    assert [Path(one).name for one in made.sealed] == [PartName(0, 0, 0).file]
    assert f"process {one.pid} on " in made.left[0].why


def test_one_rule_for_all_who_ask(
    trace_path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of one process that was not closed, seen from another machine."""
    told = replace_run_open(trace_path)
    for seconds, may in ((50, True), (70, False)):
        age(trace_path, seconds)
        place = find(trace_path)
        assert open_trace(trace_path).is_live == may
        assert bool(Life(place, told, trace_entries(place)).anyone()) == may
        caplog.clear()
        TraceWriter(trace_path, info, start_step=40).close()
        assert ("two now write one trace" in caplog.text) == may
        replace_run_open(trace_path)


def replace_run_open(path: Path) -> RunInfo:
    told = replace(read_run(path), attempts=(OPEN,))
    replace_run(path, told)
    return told
