from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.format.wal import StreamPosition, WriteAhead, read_stream
from optgeom.traces.names import PartName

SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("x", pa.list_(pa.float32()))])
NAME = PartName(0, 0, 0)


def write(folder: Path, sizes: list[int]) -> tuple[bytes, bytes, pa.Table]:
    stream = WriteAhead(folder, NAME, SCHEMA)
    batches, start = [], 0
    for size in sizes:
        steps = np.arange(start, start + size)
        rows = [{"step": int(s), "name": f"n{s % 3}", "x": [float(s)] * (s % 4)} for s in steps]
        batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        stream.append(batches[-1])
        start += size
    stream.close()
    data, sums = (folder / NAME.file).read_bytes(), (folder / NAME.sums).read_bytes()
    return data, sums, pa.Table.from_batches(batches, SCHEMA)


def table(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, SCHEMA)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, pa.Table]:
    return write(tmp_path_factory.mktemp("wal"), [3, 1, 5, 40])


def test_any_arrow_reads_it(stream: tuple[bytes, bytes, pa.Table]) -> None:
    data, _, rows = stream
    assert pa.ipc.open_stream(data).read_all().equals(rows)


@settings(deadline=None)
@given(cut=st.integers(0, 10_000), cut_sums=st.integers(0, 200))
def test_any_truncation_yields_a_prefix_of_rows(
    stream: tuple[bytes, bytes, pa.Table], cut: int, cut_sums: int
) -> None:
    data, sums, rows = stream
    batches, _ = read_stream(data[:cut], sums[:cut_sums], "x")
    found = table(batches)
    assert found.equals(rows.slice(0, found.num_rows))
    if cut >= len(data) and cut_sums >= len(sums):
        assert found.num_rows == rows.num_rows


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=6))
def test_following_a_growing_stream_yields_each_row_once(
    stream: tuple[bytes, bytes, pa.Table], cuts: list[int]
) -> None:
    data, sums, rows = stream
    position, found = StreamPosition(), []
    for cut in [*sorted(cuts), len(data)]:
        batches, position = read_stream(data[position.offset : cut], sums, "x", position)
        found += batches
    assert table(found).equals(rows)


@settings(deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(
    stream: tuple[bytes, bytes, pa.Table], at: float, bit: int
) -> None:
    data, sums, _ = stream
    changed = bytearray(data)
    changed[int(at * len(data))] ^= 1 << bit
    with pytest.raises(DamagedTrace, match=r"^runs/a/x is damaged: bytes \d+ to \d+ changed"):
        read_stream(bytes(changed), sums, "runs/a/x")


def test_damaged_sums(stream: tuple[bytes, bytes, pa.Table]) -> None:
    data, sums, _ = stream
    with pytest.raises(DamagedTrace, match="checksums beside x"):
        read_stream(data, b"z" + sums[1:], "x")


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    stream = WriteAhead(tmp_path, NAME, SCHEMA)
    stream.remove()
    assert not list(tmp_path.iterdir())


def test_hidden_from_discovery(tmp_path: Path) -> None:
    write(tmp_path, [1])
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.parametrize("call", [2, 3])
def test_a_batch_that_was_cut_off_by_a_full_disk_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The n-th write, of the message or of its line, leaves one half."""
    rows = [{"step": step, "name": "n", "x": [0.5] * 9} for step in range(6)]
    batches = [pa.RecordBatch.from_pylist(rows[at:], schema=SCHEMA) for at in (0, 1, 4)]
    stream = WriteAhead(tmp_path, NAME, SCHEMA)
    stream.append(batches[0])
    size = (tmp_path / NAME.file).stat().st_size
    count, pwrite = 0, os.pwrite

    def fail(handle: int, data: memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        if count == call - 1:
            return pwrite(handle, data[: data.nbytes // 2], offset)
        if count == call:
            raise OSError(28, "No space left on device")
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space"):
        stream.append(batches[1])
    cut = read_stream((tmp_path / NAME.file).read_bytes(), (tmp_path / NAME.sums).read_bytes(), "x")
    assert table(cut[0]).equals(table(batches[:1]))
    assert (tmp_path / NAME.file).stat().st_size == size
    stream.append(batches[2])
    stream.append(batches[0])
    stream.close()
    data, sums = (tmp_path / NAME.file).read_bytes(), (tmp_path / NAME.sums).read_bytes()
    found, _ = read_stream(data, sums, "x")
    assert table(found).equals(table([batches[0], batches[2], batches[0]]))


def test_a_stream_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space"):
        WriteAhead(tmp_path, NAME, SCHEMA)
    assert list(tmp_path.iterdir()) == []
