"""What a refresh looks at: nothing twice that cannot have changed, and everything that can."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from optgeom.traces.derived import write_derived
from optgeom.traces.files import listing
from optgeom.traces.files.listing import trace_entries
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import KEYS
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter

Record = Callable[..., None]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every listing that was made."""
    calls: list[str] = []

    def counted(place: Place) -> dict[str, Entry]:
        calls.append(place.shown)
        return trace_entries(place)

    monkeypatch.setattr(listing, "trace_entries", counted)
    return calls


def let_settle(path: Path) -> None:
    """As if nothing had changed for long."""
    for folder in [path, *(one for one in path.rglob("*") if one.is_dir())]:
        os.utime(folder, (1e9, 1e9))


def test_a_settled_run_is_listed_once(trace_path: Path, listed: list[str]) -> None:
    let_settle(trace_path)
    trace = open_trace(trace_path)
    assert len(listed) <= 2
    del listed[:]
    for _ in range(3):
        assert not trace.refresh()
    assert not listed


def test_a_folder_that_has_just_changed_is_listed_again(
    trace_path: Path, listed: list[str]
) -> None:
    os.utime(trace_path / "metrics")
    trace = open_trace(trace_path)
    del listed[:]
    trace.refresh()
    assert listed


def test_a_run_is_listed_now_and_then_whatever_its_folders_say(
    trace_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_settle(trace_path)
    trace = open_trace(trace_path)
    monkeypatch.setattr(listing, "_LIST_AGAIN_SECONDS", 0.0)
    del listed[:]
    trace.refresh()
    assert listed


def test_new_files_of_a_settled_run_are_seen(
    trace_path: Path, info: RunInfo, record: Record
) -> None:
    let_settle(trace_path)
    trace = open_trace(trace_path)
    assert not trace.refresh()
    with TraceWriter(trace_path, info, start_step=40) as writer:
        record(writer, [40])
    assert trace.refresh()
    assert trace.last_step == 40


def test_a_stream_that_grows_in_place_is_followed(
    tmp_path: Path, info: RunInfo, record: Record, listed: list[str]
) -> None:
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        record(writer, [0])
        writer.flush()
        let_settle(tmp_path)
        trace = open_trace(tmp_path)
        assert trace.steps().tolist() == [0]
        del listed[:]
        for step in range(1, 4):
            record(writer, [step])
            writer.flush()
            assert trace.refresh()
            assert not trace.refresh()
            assert trace.steps().tolist() == [*range(step + 1)]
        assert not listed
    assert trace.refresh()
    assert trace.closed


def test_a_first_analysis_and_a_second_are_seen(trace_path: Path) -> None:
    (trace_path / "derived" / "empty").mkdir(parents=True)
    let_settle(trace_path)
    trace = open_trace(trace_path)
    keys = trace.metrics().select(list(KEYS))
    for name in ("empty", "other"):
        assert not trace.refresh()
        made = pa.array([1.0] * keys.num_rows)
        write_derived(trace, name, keys.append_column(f"made_{name}", made))
        assert trace.refresh()
        assert (trace.grid(f"made_{name}").values == 1.0).all()
        let_settle(trace_path)
        trace.refresh()


def test_another_file_system_is_listed_each_time(
    trace_path: Path, info: RunInfo, record: Record, listed: list[str]
) -> None:
    elsewhere = fs.SubTreeFileSystem(str(trace_path.parent), fs.LocalFileSystem())
    let_settle(trace_path)
    trace = Trace(Place("s3://bucket/a", elsewhere, "a"))
    del listed[:]
    assert not trace.refresh()
    assert listed
    with TraceWriter(trace_path, info, start_step=40) as writer:
        record(writer, [40])
        writer.flush()
        assert trace.refresh()
        assert trace.neurons("head.weight")[0].tolist() == [0, 10, 20, 30, 40]
