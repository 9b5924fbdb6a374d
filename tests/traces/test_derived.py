from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from optgeom.traces import derived
from optgeom.traces.derived import write_derived
from optgeom.traces.errors import TraceError
from optgeom.traces.files.place import Place
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import PartName
from optgeom.traces.schema import KEYS, Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter


@pytest.fixture
def trace(tmp_path: Path, info: RunInfo, cell: Callable[..., Cell]) -> Trace:
    """Step 0 was measured, step 1 was left out of the measuring, step 2 has no row at all."""
    with TraceWriter(tmp_path / "a", info) as writer:
        writer.metrics(cell(0), {"neuron_norm_cv": 0.25, "status": "ok"})
        writer.metrics(cell(1), {})
    return open_trace(tmp_path / "a")


def keys(trace: Trace, *steps: int) -> dict[str, list[object]]:
    first = trace.metrics(steps=0).select(list(KEYS)).to_pylist()[0]
    return {name: [step if name == "step" else first[name] for step in steps] for name in KEYS}


def test_fills_only_what_is_null_or_absent(trace: Trace) -> None:
    made = {"neuron_norm_cv": [9.0, 0.5, 0.75], "status": ["no", "late", "late"], "new": [1, 2, 3]}
    write_derived(trace, "analysis", pa.table(keys(trace, 0, 1, 2) | made))
    assert trace.refresh()
    table = trace.metrics()
    assert table.column("step").to_pylist() == [0, 1, 2]
    assert table.column("neuron_norm_cv").to_pylist() == [0.25, 0.5, 0.75]
    assert table.column("status").to_pylist() == ["ok", "late", "late"]
    assert table.column("new").to_pylist() == [1, 2, 3]
    assert pa.types.is_dictionary(table.column("status").type)


def test_the_last_written_counts_column_by_column(trace: Trace) -> None:
    for made in ({"a": [1.0, 1.0]}, {"a": [2.0, None]}, {"b": [3.0, 3.0]}):
        write_derived(trace, "analysis", pa.table(keys(trace, 0, 1) | made))
    trace.refresh()
    assert trace.metrics().column("a").to_pylist() == [2.0, 1.0]
    assert trace.metrics().column("b").to_pylist() == [3.0, 3.0]


def test_keys_from_metrics_fit(trace: Trace) -> None:
    table = trace.metrics().select(list(KEYS))
    path = write_derived(trace, "x", table.append_column("twice", pc.add(table["step"], 1)))
    assert Path(path).parent.name == "x"
    assert open_trace(trace.path).metrics().column("twice").to_pylist() == [1, 2]


@pytest.mark.parametrize("uri", [False, True])
def test_written_where_the_trace_was_opened(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = open_trace((tmp_path / "a").as_uri() if uri else "a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write_derived(opened, "x", pa.table(keys(trace, 0) | {"late": [1]}))
    assert Path(path).parent == tmp_path / "a" / "derived" / "x"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert opened.refresh()
    assert opened.metrics(steps=0).column("late").to_pylist() == [1]


def subtree(folder: Path) -> fs.SubTreeFileSystem:
    return fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())


class TestElsewhere:
    """A file system that is not local, and shows a file from the moment that it is opened."""

    @pytest.fixture
    def stored(self, trace: Trace) -> Trace:
        folder = Path(trace.path).parent
        return Trace(Place("far://bucket/a", subtree(folder), "a"))

    def test_a_file_appears_whole(self, trace: Trace, stored: Trace) -> None:
        path = write_derived(stored, "x", pa.table(keys(trace, 0) | {"late": [1]}))
        (written,) = (Path(trace.path) / "derived" / "x").iterdir()
        assert path == f"far://bucket/a/derived/x/{written.name}"
        for one in (trace, stored):
            assert one.refresh()
            assert one.metrics(steps=0).column("late").to_pylist() == [1]

    @pytest.mark.parametrize("method", ["open_output_stream", "move", "create_dir"])
    def test_what_fails_leaves_nothing(
        self, trace: Trace, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        class Failing(fs.SubTreeFileSystem):  # type: ignore[misc]  # pyarrow has no types
            """Writes half of what it is given where it is asked to fail at the stream."""

        def fail(self: fs.FileSystem, path: str, *_: object, **__: object) -> None:
            if method == "open_output_stream":
                (folder / path).write_bytes(b"PAR1")
            raise OSError(5, "the disk is gone\nand more of it")

        folder = Path(trace.path).parent
        monkeypatch.setattr(Failing, method, fail, raising=False)
        place = Place("far://bucket/a", Failing(str(folder), fs.LocalFileSystem()), "a")
        with pytest.raises(TraceError) as caught:
            write_derived(Trace(place), "x", pa.table(keys(trace, 0)))
        assert str(caught.value).startswith("far://bucket/a/derived/x/a0000-r00000-s000000-")
        assert "cannot be written: [Errno 5] the disk is gone: check" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not [one for one in Path(trace.path).glob("derived/**/*") if one.is_file()]

    def test_a_temporary_folder_without_room(
        self, trace: Trace, stored: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(SegmentWriter, "seal", fail)
        with pytest.raises(TraceError, match=r"^far://bucket/a/derived/x cannot .* set TMPDIR"):
            write_derived(stored, "x", pa.table(keys(trace, 0)))
        assert not (Path(trace.path) / "derived").exists()

    def test_a_file_system_that_cannot_be_written(self, trace: Trace) -> None:
        class Readable(fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
            def open_output_stream(self, path: str, metadata: object) -> None:
                raise NotImplementedError("only for reading")

        local = LocalFileSystem()
        place = Place("far://bucket/a", fs.PyFileSystem(Readable(local)), trace.path)
        stored = Trace(place)
        assert stored.metrics().equals(trace.metrics())
        with pytest.raises(TraceError, match=r"only for reading: copy the trace to a local"):
            write_derived(stored, "x", pa.table(keys(trace, 0)))
        assert not [one for one in Path(trace.path).glob("derived/**/*") if one.is_file()]


def test_writers_at_once_hide_nothing_of_each_other(trace: Trace) -> None:
    count = 8
    start = threading.Barrier(count, timeout=60)

    def write(number: int) -> str:
        start.wait()
        made = {"same": [number], f"own_{number}": [number]}
        return write_derived(open_trace(trace.path), "x", pa.table(keys(trace, 0) | made))

    with ThreadPoolExecutor(count) as pool:
        written = list(pool.map(write, range(count)))
    there = sorted(map(str, (Path(trace.path) / "derived" / "x").iterdir()))
    assert there == sorted(written)
    trace.refresh()
    (row,) = trace.metrics(steps=0).to_pylist()
    assert [row[f"own_{number}"] for number in range(count)] == [*range(count)]
    # of one sequence, the greater digest counts, for whoever reads it
    last = written.index(there[-1])
    assert row["same"] == last
    assert open_trace(trace.path).metrics(steps=0).column("same").to_pylist() == [last]


def test_the_same_table_twice_is_two_files(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither writer may replace what the other wrote, even if both wrote the same."""
    monkeypatch.setattr(derived, "_next", lambda *_: PartName(0, 0, 0))
    made = pa.table(keys(trace, 0) | {"late": [1]})
    assert write_derived(trace, "x", made) != write_derived(trace, "x", made)
    assert len([*(Path(trace.path) / "derived" / "x").iterdir()]) == 2
    trace.refresh()
    assert trace.metrics(steps=0).column("late").to_pylist() == [1]
    assert verify(trace.path).ok


def test_records_are_not_touched(trace: Trace) -> None:
    before = {path: path.read_bytes() for path in Path(trace.path).rglob("*") if path.is_file()}
    write_derived(trace, "x", pa.table(keys(trace, 0) | {"neuron_norm_cv": [1.0]}))
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize("name", ["", "../x", "Übung", "a b", ".x"])
def test_names(trace: Trace, name: str) -> None:
    with pytest.raises(TraceError, match="names no analysis"):
        write_derived(trace, name, pa.table(keys(trace, 0)))


def test_keys_must_be_whole(trace: Trace) -> None:
    columns = keys(trace, 0)
    with pytest.raises(TraceError, match="stage is missing"):
        write_derived(trace, "x", pa.table({k: v for k, v in columns.items() if k != "stage"}))
    with pytest.raises(TraceError, match="nulls in layer"):
        write_derived(trace, "x", pa.table(columns | {"layer": [None]}))
    with pytest.raises(TraceError, match="another type"):
        write_derived(trace, "x", pa.table(columns | {"step": ["today"]}))
    assert not (Path(trace.path) / "derived").exists()
