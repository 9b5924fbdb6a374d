from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import fs

from optgeom.traces.derived import write_derived
from optgeom.traces.errors import TraceError
from optgeom.traces.info import RunInfo
from optgeom.traces.place import Place
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
    assert path.parent.name == "x"
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
    assert path.parent == tmp_path / "a" / "derived" / "x"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert opened.refresh()
    assert opened.metrics(steps=0).column("late").to_pylist() == [1]


def test_an_object_store_is_not_written_to(trace: Trace) -> None:
    stored = Place("s3://bucket/a", fs.SubTreeFileSystem("/", fs.LocalFileSystem()), trace.path)
    with pytest.raises(TraceError, match="s3://bucket/a is not a local folder"):
        write_derived(Trace(stored), "x", pa.table(keys(trace, 0)))


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
