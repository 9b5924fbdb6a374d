from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.format.checked import read_segment
from optgeom.traces.format.footer import footer_digest
from optgeom.traces.format.output import SummedFile
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.schema import TEXT

SCHEMA = pa.schema([("step", pa.int64()), ("name", TEXT), ("x", pa.list_(pa.float32()))])


@pytest.fixture
def rows() -> pa.Table:
    made = [{"step": s, "name": f"n{s % 3}", "x": [s / 7] * (s % 9)} for s in range(300)]
    return pa.Table.from_pylist(made, schema=SCHEMA)


@pytest.fixture
def path(tmp_path: Path, rows: pa.Table) -> Path:
    segment = SegmentWriter(tmp_path, PartName(2, 3, 4), SCHEMA)
    segment.write(rows)
    assert all(one.name.startswith(".tmp-") for one in tmp_path.iterdir())
    return segment.seal()


def read(path: Path, data: bytes | None = None) -> pa.Table:
    name = parse_name(path.name)
    assert name is not None
    file = pa.BufferReader(path.read_bytes() if data is None else data)
    return read_segment(file, path.name, name.digest)


def test_appears_whole_and_alone(path: Path, rows: pa.Table) -> None:
    assert list(path.parent.iterdir()) == [path]
    name = parse_name(path.name)
    assert name is not None
    assert name.slot == (2, 3, 4)
    assert read(path).equals(rows)


def test_any_parquet_reader_reads_it(path: Path, rows: pa.Table) -> None:
    assert pq.read_table(path, partitioning=None).equals(rows)


def test_abandoned_leaves_nothing(tmp_path: Path, rows: pa.Table) -> None:
    segment = SegmentWriter(tmp_path, PartName(0, 0, 0), SCHEMA)
    segment.write(rows)
    segment.abandon()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated(path: Path, share: float) -> None:
    data = path.read_bytes()
    with pytest.raises(DamagedTrace, match=f"^{path.name} is (truncated|damaged)"):
        read(path, data[: int(share * len(data))])


def test_a_flipped_bit_anywhere_is_found(path: Path) -> None:
    data, dice = path.read_bytes(), random.Random(0)
    for _ in range(400):
        changed = bytearray(data)
        changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        with pytest.raises(DamagedTrace, match=f"^{path.name} is "):
            read(path, bytes(changed))


def test_segments_without_our_checksums_are_refused(tmp_path: Path, rows: pa.Table) -> None:
    pq.write_table(rows, tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    with pytest.raises(DamagedTrace, match="checksums are missing"):
        read_segment(pa.BufferReader(data), "x.parquet", footer_digest(footer))


@pytest.mark.parametrize("file", ["x.parquet", ".tmp-1-a0-r0-s0.parquet", "a0-r0-s0.parquet", ""])
def test_foreign_names(file: str) -> None:
    assert parse_name(file) is None


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_a_checksum_that_fails_fails_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Large row groups are read back on a thread, whose errors nobody would see."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(SummedFile, "_crc", fail)
    segment = SegmentWriter(
        tmp_path, PartName(0, 0, 0), pa.schema([("values", pa.binary())]), raw=True
    )
    segment.write(pa.table({"values": pa.array([bytes(2 << 20)], pa.binary())}))
    with pytest.raises(type(error)):
        segment.seal()
    segment.abandon()
    assert not list(tmp_path.iterdir())
