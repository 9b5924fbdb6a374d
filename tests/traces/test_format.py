"""docs/traces.md, taken at its word: a reader that uses nothing of optgeom."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optgeom.traces.info import RunInfo
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter


@pytest.fixture
def folder(tmp_path: Path, info: RunInfo, record: Callable[..., None]) -> Iterator[Path]:
    """One attempt sealed, one still in streams."""
    with TraceWriter(tmp_path, info) as writer:
        record(writer, [0, 10], raw=(10,))
    with TraceWriter(tmp_path, info, start_step=20) as writer:
        record(writer, [20, 30])
        writer.flush()
        yield tmp_path


def blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_segment(path: Path) -> list[dict[str, object]]:
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    assert path.stem.endswith(f"-{blake(data[-8 - length :])}")
    file = pq.ParquetFile(path)
    start = 0
    sums = json.loads(file.metadata.metadata[b"optgeom.crc32"])
    assert len(sums) == file.num_row_groups
    for end, crc in sums:
        assert zlib.crc32(data[start:end]) == crc
        start = end
    assert start == len(data) - 8 - length
    return file.read().to_pylist()


def read_stream(path: Path) -> list[dict[str, object]]:
    data, end = path.read_bytes(), 0
    for line in path.with_suffix(".sums").read_text().splitlines(keepends=True):
        assert re.fullmatch(r"\d{16} [0-9a-f]{8}\n", line)
        stop = int(line[:16])
        assert zlib.crc32(data[end:stop]) == int(line[17:25], 16)
        end = stop
    assert end == len(data)
    return pa.ipc.open_stream(data).read_all().to_pylist()


def read_table(folder: Path) -> list[dict[str, object]]:
    rows = []
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"a\d{4}-r\d{5}-s\d{6}-[0-9a-f]{16}\.parquet", path.name):
            rows += read_segment(path)
        elif re.fullmatch(r"\.wal-a\d{4}-r\d{5}-s\d{6}\.arrows", path.name):
            rows += read_stream(path)
    return rows


def test_run_json(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_bytes())
    digest = content.pop("digest")
    assert digest == blake(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    assert content["schema"] == 2
    assert [one["closed"] is None for one in content["attempts"]] == [False, True]


def test_the_tables_hold_what_the_reader_shows(folder: Path) -> None:
    trace = open_trace(folder)
    rows = {(r["step"], r["layer"], r["stage"]): r for r in read_table(folder / "metrics")}
    spectra = {(r["step"], r["layer"], r["stage"]): r for r in read_table(folder / "spectra")}
    shown = trace.metrics().to_pylist()
    assert len(shown) == len(rows) == len(spectra) == 24
    for one in shown:
        key = (one["step"], one["layer"], one["stage"])
        assert all(one[name] == value for name, value in rows[key].items())
        assert one["condition_number"] == spectra[key]["condition_number"]
        assert trace.spectrum(*key).tolist() == spectra[key]["singular_values"]
    assert len(read_table(folder / "neurons")) == 24
    losses = {r["step"]: r["value"] for r in read_table(folder / "scalars")}
    assert losses == dict(
        zip(*(trace.scalars("loss").column(c).to_pylist() for c in ("step", "value")), strict=True)
    )


def test_raw_matrices(folder: Path) -> None:
    trace = open_trace(folder)
    rows = read_table(folder / "updates")
    assert len(rows) == 6
    for row in rows:
        assert row["dtype"] == "float32"
        matrix = np.frombuffer(row["values"], "<f4").reshape(row["rows"], row["cols"])
        assert np.array_equal(matrix, trace.matrix(row["step"], row["layer"], row["stage"]))
