"""What is read of a sealed trace, and when; and what a changed byte does to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optgeom.traces.errors import DamagedTrace, NotCaptured
from optgeom.traces.format import layout, segment
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.names import PartName
from optgeom.traces.schema import Cell, table_schema
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter

Record = Callable[..., None]
WIDE = tuple(
    LayerInfo(f"blocks.{i}.up.weight", "mlp.up", i, (300, 200), "float32", "muon", 0, "muon")
    for i in range(6)
)
COLUMNS = ("neuron_norm_cv", "lr", "condition_number")


@pytest.fixture
def info(info: RunInfo) -> RunInfo:
    """Layers whose lists are longer than their scalars."""
    return RunInfo("a", layers=WIDE, columns=info.columns)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stage of a layer fills a row group, and lists are large enough for an index."""
    monkeypatch.setattr(layout, "GROUP_BYTES", 5 * 300 * 4)
    monkeypatch.setattr(segment, "INDEX_SHARE", 2)
    monkeypatch.setattr(segment, "RAW_INDEX_SHARE", 2)


@pytest.fixture
def path(tmp_path: Path, info: RunInfo, record: Record, small_groups: None) -> Path:
    """A closed trace of steps 0 to 4, six layers, two stages; raw matrices at step 2."""
    with TraceWriter(tmp_path / "a", info) as writer:
        record(writer, [*range(5)], layers=WIDE, raw=(2,))
    return tmp_path / "a"


def everything(trace: Trace) -> dict[str, Any]:
    """All that a trace holds, asked in every way."""
    found: dict[str, Any] = {name: trace.grid(name).values.tolist() for name in COLUMNS}
    found["words"] = trace.words("status").codes.tolist()
    found["scalars"] = trace.scalars().to_pylist()
    found["metrics"] = trace.metrics().to_pylist()
    for layer in WIDE:
        for stage in ("update", "momentum"):
            found[f"{layer.name} {stage}"] = [
                trace.neurons(layer.name, stage)[1].tolist(),
                [one.tolist() for one in trace.spectra(layer.name, stage)[1]],
                trace.neuron_norms(3, layer.name, stage).tolist(),
                trace.spectrum(3, layer.name, stage).tolist(),
            ]
    found["matrices"] = [(key, matrix.tolist()) for key, matrix in trace.matrices()]
    return found


def asked(path: Path) -> tuple[str, dict[str, Any] | None]:
    """What damage was named, or what was found."""
    try:
        return "", everything(open_trace(path))
    except DamagedTrace as error:
        return str(error), None


def test_one_layer_over_all_steps_lies_in_one_row_group(path: Path) -> None:
    for table in ("neurons", "spectra"):
        (file,) = (path / table).iterdir()
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=["layer", "stage", "step"]).to_pylist()
            assert len({(row["layer"], row["stage"]) for row in rows}) == 1
            assert [row["step"] for row in rows] == [*range(5)]
        assert parquet.num_row_groups == 12


def test_a_flipped_bit_is_an_error_that_names_the_file_or_changes_nothing(path: Path) -> None:
    expected, dice = everything(open_trace(path)), random.Random(0)
    unseen = 0
    for victim in sorted(one for one in path.rglob("*.parquet")):
        data = victim.read_bytes()
        for _ in range(12):
            changed = bytearray(data)
            changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            victim.write_bytes(changed)
            message, found = asked(path)
            if found is None:
                assert victim.name in message
                assert "\n" not in message
            else:
                # beside lists, what the footer holds a copy of is not read
                assert victim.parent.name in ("neurons", "spectra", "updates")
                assert found == expected
                unseen += 1
        victim.write_bytes(data)
    assert unseen < 10


def test_damaged_lists_of_one_layer_cost_nothing_else(path: Path) -> None:
    expected = everything(open_trace(path))
    (victim,) = (path / "neurons").iterdir()
    group = pq.ParquetFile(victim).metadata.row_group(4)
    column = group.column(group.num_columns - 1)
    data = bytearray(victim.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 8
    victim.write_bytes(data)
    trace = open_trace(path)
    assert trace.grid("neuron_norm_cv").values.tolist() == expected["neuron_norm_cv"]
    for number, layer in enumerate(WIDE):
        for stage in ("update", "momentum"):
            # momentum is recorded first
            if (number, stage) == (2, "momentum"):
                with pytest.raises(DamagedTrace, match=victim.name):
                    trace.neurons(layer.name, stage)
            else:
                found = trace.neurons(layer.name, stage)[1].tolist()
                assert found == expected[f"{layer.name} {stage}"][0]


def test_lists_that_change_after_they_were_read_stay_as_they_were(path: Path) -> None:
    trace = open_trace(path)
    before = trace.neurons(WIDE[0].name)[1]
    (victim,) = (path / "neurons").iterdir()
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) // 2])
    assert np.array_equal(trace.neurons(WIDE[0].name)[1], before)
    with pytest.raises(DamagedTrace, match=f"{victim.name} is truncated"):
        trace.neurons(WIDE[5].name)


def test_a_segment_that_goes_is_named(path: Path) -> None:
    trace = open_trace(path)
    assert trace.steps(table="neurons").tolist() == [*range(5)]
    (victim,) = (path / "neurons").iterdir()
    victim.unlink()
    with pytest.raises(DamagedTrace, match=f"{victim.name} is gone"):
        trace.neurons(WIDE[0].name)


@pytest.mark.parametrize("sealed", ["unsorted", "without an index", "both"])
def test_segments_of_earlier_versions_read_the_same(
    path: Path,
    tmp_path: Path,
    info: RunInfo,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    sealed: str,
) -> None:
    if sealed != "without an index":
        monkeypatch.setattr(segment, "row_groups", lambda table: [table])
    if sealed != "unsorted":
        monkeypatch.setattr(segment, "is_large", lambda kind: False)
    with TraceWriter(tmp_path / "old", info) as writer:
        record(writer, [*range(5)], layers=WIDE, raw=(2,))
    (file,) = (tmp_path / "old" / "neurons").iterdir()
    noted = pq.ParquetFile(file).metadata.metadata
    assert (b"optgeom.index" in noted) == (sealed == "unsorted")
    assert everything(open_trace(tmp_path / "old")) == everything(open_trace(path))


def test_a_flipped_bit_in_a_segment_without_an_index_is_found(
    tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "is_large", lambda kind: False)
    with TraceWriter(tmp_path / "a", info) as writer:
        record(writer, [*range(3)], layers=WIDE)
    dice = random.Random(0)
    for table in ("neurons", "spectra"):
        (victim,) = (tmp_path / "a" / table).iterdir()
        data = victim.read_bytes()
        for _ in range(40):
            changed = bytearray(data)
            changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            victim.write_bytes(changed)
            with pytest.raises(DamagedTrace, match=f"{victim.name} is "):
                open_trace(tmp_path / "a").steps(table=table)
        victim.write_bytes(data)


def test_a_stream_is_read_as_its_segment_will_be(
    tmp_path: Path, info: RunInfo, record: Record
) -> None:
    with TraceWriter(tmp_path / "a", info, flush_every=1e6) as writer:
        trace = open_trace(tmp_path / "a")
        for step in range(6):
            record(writer, [step], layers=WIDE)
            writer.flush()
            trace.refresh()
            assert len(trace.neurons(WIDE[3].name)[0]) == step + 1
        live = everything(trace)
    trace.refresh()
    assert everything(trace) == live
    assert everything(open_trace(tmp_path / "a")) == live


def test_lists_and_scalars_of_the_newest_attempt(
    path: Path, info: RunInfo, record: Record, cell: Callable[..., Cell]
) -> None:
    with TraceWriter(path, info, start_step=3) as writer:
        record(writer, [4, 3], layers=WIDE[:2], plus=0.25)
        writer.neurons(cell(4, WIDE[0]), np.full(300, 7.0))
    trace = open_trace(path)
    assert trace.spectra(WIDE[1].name)[1][3][0] == 203.25
    assert trace.neuron_norms(4, WIDE[0].name).tolist() == [7.0] * 300
    assert trace.steps(WIDE[2].name, table="neurons").tolist() == [0, 1, 2]
    assert trace.steps(table="spectra").tolist() == [*range(5)]
    assert trace.grid("neuron_norm_cv").recorded.sum(axis=1).tolist() == [6, 6, 6, 2, 2]


def test_columns_that_a_file_lacks_are_null(
    path: Path, info: RunInfo, record: Record, cell: Callable[..., Cell]
) -> None:
    columns = {
        "metrics": {**info.columns["metrics"], "fresh": "float64", "word": "string"},
        "spectra": {**info.columns["spectra"], "bent": "float64", "bends": "string"},
    }
    changed = replace(info, columns=columns)
    with TraceWriter(path, changed, start_step=5) as writer:
        writer.metrics(cell(5, WIDE[1]), {"fresh": 2.0, "word": "new"})
        writer.spectrum(cell(5, WIDE[1]), np.ones(200), {"bent": 3.0, "bends": "so"})
    trace = open_trace(path)
    for column, value in (("fresh", 2.0), ("bent", 3.0)):
        grid = trace.grid(column)
        assert grid.values[5, 1] == value
        assert np.isnan(grid.values).sum() == grid.values.size - 1
        assert grid.recorded[:5].all()
    for column, word in (("word", "new"), ("bends", "so")):
        words = trace.words(column)
        assert words.words == (word,)
        assert (words.codes >= 0).sum() == 1
    assert trace.metrics().column("fresh").null_count == trace.metrics().num_rows - 1


def test_a_table_without_its_lists_has_none(tmp_path: Path, info: RunInfo) -> None:
    schema = table_schema("spectra", info.columns)
    schema = schema.remove(schema.get_field_index("singular_values"))
    TraceWriter(tmp_path, info).close()
    row = {"run": "a", "attempt": 0, "step": 0, "optimizer": "o", "layer": WIDE[0].name}
    row |= {"kind": "mlp.up", "stage": "update", "condition_number": 4.0}
    (tmp_path / "spectra").mkdir()
    made = SegmentWriter(tmp_path / "spectra", PartName(0, 0, 0), schema)
    made.write(pa.Table.from_pylist([row], schema))
    made.seal()
    trace = open_trace(tmp_path)
    assert trace.grid("condition_number").values[0, 0] == 4.0
    assert trace.spectra(WIDE[0].name)[1] == []
    with pytest.raises(NotCaptured, match="is null"):
        trace.spectrum(0, WIDE[0].name)


def test_an_index_is_there_where_it_takes_little(tmp_path: Path, info: RunInfo) -> None:
    for name, width in (("narrow", 8), ("wide", 8000)):
        with TraceWriter(tmp_path / name, info) as writer:
            for step in range(20):
                key = Cell(step, "o", "w", "other", None, "update")
                writer.neurons(key, np.ones(width))
                writer.update(key, np.ones((8, width // 8), np.float32))
                writer.end_step(step)
        for table in ("neurons", "updates"):
            for file in (tmp_path / name / table).iterdir():
                noted = pq.ParquetFile(file).metadata.metadata
                indexed = name == "wide" and table == "neurons"
                assert (b"optgeom.index" in noted) == indexed
        trace = open_trace(tmp_path / name)
        assert trace.neurons("w")[1].shape == (20, width)
        assert len(list(trace.matrices())) == 20
