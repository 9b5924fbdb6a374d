"""A stream that is taken away from its writer, and the locks that keep others from doing that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from optgeom.traces.errors import TraceError
from optgeom.traces.files.lock import living, lock_file
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.verify import verify
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink
from tests.traces.compacting import age


def values(path: Path) -> list[float]:
    """What a reader finds if the process that writes it dies now."""
    left = path.with_name("left")
    shutil.copytree(path, left)
    try:
        assert verify(left).ok
        found: list[float] = open_trace(left).scalars("loss").column("value").to_pylist()
        return found
    finally:
        shutil.rmtree(left)


def record(writer: TraceWriter, steps: range) -> None:
    for step in steps:
        writer.scalar(step, "loss", float(step))
    assert writer.flush()


def compact_away(path: Path) -> None:
    """What a compaction does that takes the writer for dead."""
    aside = path.with_name("aside")
    shutil.copytree(path, aside)
    (aside / lock_file(0)).unlink()
    age(aside)
    assert compact(aside).sealed
    shutil.rmtree(path / "scalars")
    (aside / "scalars").rename(path / "scalars")
    shutil.rmtree(aside)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


class TestTheStream:
    @pytest.mark.parametrize("more", [0, 3])
    def test_one_that_was_removed_is_written_anew(
        self, path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture, more: int
    ) -> None:
        with TraceWriter(path, info, flush_every=1e6) as writer:
            record(writer, range(5))
            for one in (path / "scalars").iterdir():
                one.unlink()
            record(writer, range(5, 5 + more))
            assert values(path) == [*map(float, range(5 + more))]
        assert values(path) == [*map(float, range(5 + more))]
        (said,) = caplog.messages
        assert f"was removed by another process: {5 + more} rows of it are written anew" in said

    @pytest.mark.parametrize("sealed_before", [False, True])
    def test_beside_one_that_was_sealed_no_row_is_lost_or_doubled(
        self,
        path: Path,
        info: RunInfo,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        sealed_before: bool,
    ) -> None:
        if sealed_before:  # then the compaction merges what it seals with its neighbour
            monkeypatch.setattr(sink, "SEAL_ROWS", 6)
        with TraceWriter(path, info, flush_every=1e6) as writer:
            record(writer, range(6))
            record(writer, range(6, 8))
            record(writer, range(8, 10))
            compact_away(path)
            record(writer, range(10, 12))
            assert values(path) == [*map(float, range(12))]
            record(writer, range(12, 14))
            compact_away(path)
            assert writer.flush()
        assert values(path) == [*map(float, range(14))]
        assert [one for one in caplog.messages if "was sealed by" in one] == caplog.messages
        assert len(caplog.messages) == 2

    def test_rows_that_find_no_room_a_second_time_are_counted(
        self, path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with TraceWriter(path, info, flush_every=1e6) as writer:
            record(writer, range(5))
            shutil.rmtree(path / "scalars")
            monkeypatch.setattr(sink.WriteAhead, "append", fail)
            monkeypatch.setattr(sink.SegmentWriter, "seal", fail)
            assert not writer.flush()
        assert writer.dropped == {"scalars": 5}


class TestTheLocks:
    def test_every_rank_holds_one_until_it_ends(
        self, path: Path, info: RunInfo, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert living(path) == ()
        first, second = (TraceWriter(path, info, rank=rank) for rank in range(2))
        me = f"process {os.getpid()} on "
        assert [one.startswith(me) for one in living(path)] == [True, True]
        first.close()
        assert len(living(path)) == 1
        (path / lock_file(7)).write_text("12 a-machine\n")  # nobody holds it
        assert len(living(path)) == 1
        second.close()
        assert living(path) == ()
        names = {one.name for one in path.iterdir() if one.is_file()}
        assert names == {RUN_FILE, RUN_COPY, lock_file(7)}

    def test_a_rank_that_lives_has_its_files_to_itself(self, path: Path, info: RunInfo) -> None:
        with TraceWriter(path, info, rank=1) as writer:
            record(writer, range(3))
            with pytest.raises(TraceError, match=r"written by process \d+ on .* as rank 1: end"):
                TraceWriter(path, info, rank=1)
            record(writer, range(3, 4))
        with TraceWriter(path, info):
            pass
        assert values(path) == [*map(float, range(4))]
