"""Numbers of attempts and sequences: no process takes those of records that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo
from optgeom.traces.keeping.repair import repair
from optgeom.traces.keeping.verify import verify
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from tests.traces.compacting import age

Record = Callable[..., None]


def killed(path: Path, info: RunInfo, record: Record, steps: list[int], **settings: int) -> None:
    """What a process leaves that is killed after its flush: no lock, and a stream."""
    writer = TraceWriter(path, info, flush_every=1e6, **settings)
    record(writer, steps)
    writer.flush()
    left = path.parent / "left"
    shutil.copytree(path, left)
    writer.close()
    shutil.rmtree(path)
    left.rename(path)
    for lock in path.glob(".lock*"):
        lock.unlink()


def test_a_copy_of_run_json_from_before_an_attempt_costs_none_of_its_records(
    tmp_path: Path, info: RunInfo, record: Record
) -> None:
    path = tmp_path / "run"
    killed(path, info, record, [0, 1])
    before = (path / RUN_FILE).read_bytes()
    killed(path, info, record, [2, 3], start_step=2)
    (path / RUN_COPY).write_bytes(before)
    (path / RUN_FILE).write_bytes(b"damaged")
    age(path)
    repair(path)
    with TraceWriter(path, info, start_step=4) as writer:
        record(writer, [4])
        assert writer.attempt == 2
    assert open_trace(path).steps().tolist() == [0, 1, 2, 3, 4]
    assert verify(path).ok


def test_nothing_begins_among_records_without_a_run_json(
    tmp_path: Path, info: RunInfo, record: Record
) -> None:
    path = tmp_path / "run"
    killed(path, info, record, [0, 1])
    kept = (path / RUN_FILE).read_bytes()
    (path / RUN_FILE).unlink()
    with pytest.raises(TraceError, match=r"run whose run\.json is missing: restore it"):
        TraceWriter(path, info)
    (path / RUN_FILE).write_bytes(kept)
    assert open_trace(path).steps().tolist() == [0, 1]


def test_a_rank_that_takes_another_s_attempt_overwrites_no_stream(
    tmp_path: Path, info: RunInfo, record: Record
) -> None:
    path = tmp_path / "run"
    TraceWriter(path, info).close()
    killed(path, info, record, [0, 1], rank=1)
    with TraceWriter(path, info, rank=1) as writer:
        record(writer, [2])
    assert open_trace(path).steps().tolist() == [0, 1, 2]


def test_a_table_that_is_a_link_out_of_the_run_is_refused_before_it_begins(
    tmp_path: Path, info: RunInfo
) -> None:
    path = tmp_path / "run"
    (tmp_path / "elsewhere").mkdir()
    path.mkdir()
    (path / "updates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedTrace, match="leads out of the trace"):
        TraceWriter(path, info)
    assert [one.name for one in path.iterdir()] == ["updates"]
