"""Compaction beside writers, beside itself, of damaged files, and killed at any moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optgeom.traces import open_trace
from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.files.lock import COMPACT_LOCK, Lock
from optgeom.traces.info import parse
from optgeom.traces.keeping.compact import compact
from optgeom.traces.names import parse_name
from optgeom.traces.schema import SCHEMA_VERSION, TABLES
from optgeom.traces.writing import sink
from tests.traces.compacting import (
    age,
    as_of_schema_1,
    assert_whole,
    go_on,
    matrices,
    parts,
    written,
)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers seal after a few rows, and reach the disk with each flush."""
    monkeypatch.setattr(sink, "SEAL_ROWS", 6)


@pytest.fixture
def path(tmp_path: Path, small_segments: None) -> Path:
    """A closed run of four segments a table."""
    written(tmp_path / "closed", range(20)).close()
    return tmp_path / "closed"


class TestProcesses:
    def test_what_a_live_process_writes_is_left_to_it(
        self, tmp_path: Path, small_segments: None
    ) -> None:
        path = tmp_path / "run"
        writer = written(path, range(20))
        (stream,) = [one for one in parts(path)["metrics"] if not one.digest]
        made = compact(path)
        assert {one.file for one in made.left} == {
            f"{table}/{stream.file}" for table in ("metrics", "spectra", "neurons", "scalars")
        }
        assert all(str(os.getpid()) in one.why for one in made.left)
        assert made.ok
        assert [one.more for one in parts(path)["metrics"]] == [2, 0]
        assert len(parts(path)["updates"]) == 1
        for step in range(20, 40):
            go_on(writer, step)
            if step % 5 == 0:
                compact(path)
        writer.close()
        compact(path)
        assert writer.failure is None
        assert_whole(open_trace(path), range(40))
        assert sum(map(len, parts(path).values())) == len(TABLES)

    def test_streams_of_the_dead_are_sealed(self, tmp_path: Path, small_segments: None) -> None:
        path = tmp_path / "run"
        first = written(path, range(8))
        shutil.copytree(path, tmp_path / "killed" / "run")  # as it would be left by a kill
        first.close()
        path = tmp_path / "killed" / "run"
        os.remove(path / ".lock")
        for one in path.rglob("*"):
            os.utime(one)
        made = compact(path)
        assert {one.file.partition("/")[2] for one in made.left} == {
            ".wal-a0000-r00000-s000001.arrows"
        }
        assert all("wait until it has been quiet for a minute" in one.why for one in made.left)
        age(path)
        made = compact(path)
        assert len(made.sealed) == 4
        assert not made.left
        assert_whole(open_trace(path), range(8))
        assert not [*path.rglob(".wal*")]
        with written(path, range(8, 10), start_step=8):
            pass
        assert_whole(open_trace(path), range(10))

    def test_streams_of_an_attempt_before_are_sealed_beside_the_next(
        self, tmp_path: Path, small_segments: None
    ) -> None:
        path = tmp_path / "run"
        first = written(path, range(8))
        shutil.copytree(path, tmp_path / "killed" / "run")
        first.close()
        path = tmp_path / "killed" / "run"
        os.remove(path / ".lock")
        age(path)
        with written(path, range(8, 10), start_step=8):
            made = compact(path)
            assert {parse_name(one.partition("/")[2]).attempt for one in made.sealed} == {0}
            assert {parse_name(one.file.partition("/")[2]).attempt for one in made.left} == {1}
            assert_whole(open_trace(path), range(10))

    def test_two_at_once_are_one_too_many(self, path: Path) -> None:
        lock = Lock.take(path, COMPACT_LOCK)
        assert lock is not None
        with pytest.raises(TraceError, match=f"is being compacted by process {os.getpid()} on "):
            compact(path)
        lock.release()
        compact(path)

    def test_the_lock_goes_with_its_process(self, path: Path) -> None:
        code = f"""
import os, signal
from pathlib import Path
from optgeom.traces.files.lock import COMPACT_LOCK, Lock
lock = Lock.take(Path({str(path)!r}), COMPACT_LOCK)
os.kill(os.getpid(), signal.SIGKILL)
"""
        subprocess.run([sys.executable, "-c", code], check=False)
        assert (path / COMPACT_LOCK).exists()
        assert compact(path).merged
        assert not (path / COMPACT_LOCK).exists()

    def test_a_live_run_of_an_older_optgeom_is_not_merged(
        self, tmp_path: Path, small_segments: None
    ) -> None:
        path = tmp_path / "run"
        with written(path, range(20)):
            as_of_schema_1(path)
            with pytest.raises(TraceError, match="compact it when that has ended"):
                compact(path)
            assert all(one.more == 0 for one in parts(path)["metrics"])


class TestDamage:
    def test_a_damaged_segment_is_named_and_left_and_its_neighbours_are_merged(
        self, tmp_path: Path, small_segments: None
    ) -> None:
        path = tmp_path / "run"
        written(path, range(60)).close()
        age(path)
        victims = {}
        for table, place in (("metrics", 40), ("neurons", 40), ("scalars", -20)):
            victim = path / table / parts(path)[table][4].file
            data = bytearray(victim.read_bytes())
            data[place] ^= 1
            victim.write_bytes(data)
            victims[f"{table}/{victim.name}"] = bytes(data)
        made = compact(path)
        assert not made.ok
        assert {one.file for one in made.left} == set(victims)
        assert all(one.damaged and one.file.rpartition("/")[2] in one.why for one in made.left)
        for file, data in victims.items():
            assert (path / file).read_bytes() == data
        spans = [(one.sequence, one.last) for one in parts(path)["metrics"]]
        assert spans == [(0, 3), (4, 4), (5, 9)]
        with pytest.raises(DamagedTrace, match=parts(path)["metrics"][1].digest):
            open_trace(path).metrics()
        for file in victims:
            (path / file).unlink()
        kept = [*range(24), *range(30, 60)]
        trace = open_trace(path)
        assert trace.grid("x").values[kept, 0].tolist() == kept
        assert trace.neurons("wide")[0].tolist() == kept
        assert trace.scalars("loss").column("step").to_pylist() == kept
        assert trace.spectra("wide")[0].tolist() == [*range(60)]

    def test_what_others_stand_for_is_kept_while_they_are_damaged(
        self, tmp_path: Path, small_segments: None
    ) -> None:
        path = tmp_path / "run"
        written(path, range(18)).close()
        shutil.copytree(path, tmp_path / "before")
        compact(path)
        for table in ("metrics", "scalars"):
            for one in (tmp_path / "before" / table).iterdir():
                shutil.copy(one, path / table)
        victim = path / "metrics" / parts(path)["metrics"][0].file
        data = bytearray(victim.read_bytes())
        data[40] ^= 1
        victim.write_bytes(data)
        made = compact(path)
        assert [one.file for one in made.left] == [f"metrics/{victim.name}"]
        assert "stays" in made.left[0].why
        assert len(parts(path)["metrics"]) == 4
        assert len(made.removed) == 3
        assert len(parts(path)["scalars"]) == 1

    def test_checksums_without_a_stream_go(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        written(path, range(3)).close()
        alone = path / "metrics" / ".wal-a0000-r00000-s000001.sums"
        alone.touch()
        age(path)
        assert compact(path).removed == (f"metrics/{alone.name}",)
        assert not alone.exists()

    def test_a_full_disk_leaves_everything(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("optgeom.traces.format.segment.SegmentWriter.write", full)
        with pytest.raises(TraceError, match=r"No space left on device.*make room"):
            compact(path)
        assert {one: one.read_bytes() for one in path.rglob("*") if one.is_file()} == before


KILLED = """
import os, pathlib, shutil, signal, sys
import pyarrow as pa
from optgeom.traces.keeping.compact import compact
source, out, calls = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 0
def dying(function, at):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
at, status = 0, 1
while status:
    at += 1
    copy = out / str(at)
    shutil.copytree(source, copy)
    child = os.fork()
    if not child:
        pathlib.Path.replace = dying(pathlib.Path.replace, at)
        pathlib.Path.unlink = dying(pathlib.Path.unlink, at)
        os.fsync = dying(os.fsync, at)
        compact(copy)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
print(at)
"""


def test_killed_at_any_call_nothing_is_lost_or_doubled(
    tmp_path: Path, small_segments: None
) -> None:
    """A process dies at the n-th rename, removal or fsync; for every n."""
    path = tmp_path / "run"
    first = written(path, range(8))
    shutil.copytree(path, tmp_path / "killed" / "run")
    first.close()
    path = tmp_path / "killed" / "run"
    os.remove(path / ".lock")
    for table in ("spectra", "scalars"):
        shutil.rmtree(path / table)
    as_of_schema_1(path)
    age(path)
    expected = sorted(map(repr, (tuple(row.items()) for row in all_rows(path))))
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    count = int(done.stdout)
    assert count > 30
    for at in range(1, count + 1):
        left = tmp_path / str(at)
        assert sorted(map(repr, (tuple(row.items()) for row in all_rows(left)))) == expected
        schema = parse((left / "run.json").read_bytes(), "run.json").schema
        if any(one.more for names in parts(left).values() for one in names):
            assert schema == SCHEMA_VERSION
        if at % 7 == 0:
            compact(left)
            assert sum(map(len, parts(left).values())) == 3
            assert not [*left.rglob(".tmp*.parquet"), *left.glob(".tmp-compact*")]
            assert sorted(map(repr, (tuple(row.items()) for row in all_rows(left)))) == expected


def all_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of all cells, and of all blocks, once for each time that a reader sees them."""
    trace = open_trace(path)
    for table in ("metrics", "neurons", "updates"):
        for part in trace.index(table).parts:
            names = [name for name in part.types if name != "values"]
            yield from part.columns(names).to_pylist()
    yield from ({"step": step, "x": matrix.tobytes()} for step, matrix in matrices(trace))
