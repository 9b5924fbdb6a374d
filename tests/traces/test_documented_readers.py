"""The code of docs/traces.md, "Reading without optgeom", run on a trace with one of everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from optgeom.traces import Trace, open_trace
from tests.traces.everything import write_everything

DOCUMENT = Path(__file__).parents[2] / "docs/traces.md"
SECTION = DOCUMENT.read_text(encoding="utf-8").partition("## Reading without optgeom")[2]
PYTHON = re.findall(r"```python\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)
(SQL,) = re.findall(r"```sql\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)
TWICE, NORMS_ALONE = 3, 7
"""A step that was written twice, and one of which the newest attempt has
norms alone; the short examples mind neither."""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    """runs/a under the current folder; its third attempt is not closed."""
    writers = write_everything(tmp_path / "runs/a", analysed=False)
    monkeypatch.chdir(tmp_path)
    yield open_trace("runs/a")
    for writer in writers:
        writer.close()


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs/traces.md", "exec"), names)
    return names


def expected(
    trace: Trace, *, sealed: bool, odd: tuple[int, ...] = (TWICE,)
) -> list[tuple[Any, ...]]:
    """What the newest attempts have of two columns; of step 13 on, the third is in streams."""
    columns = ["step", "layer", "stage", "attempt", "neuron_norm_cv", "count", "flag"]
    rows = trace.metrics().select(columns).to_pylist()
    there = [row for row in rows if not sealed or row["step"] < 16]
    odd = (*odd, NORMS_ALONE) if sealed else odd
    return sorted(tuple(map(plain, row.values())) for row in there if row["step"] not in odd)


def plain(value: Any) -> str:
    """NaN and null alike, and integers like floats, as pandas has them."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return value if isinstance(value, str) else repr(float(value))


def shown(rows: list[dict[str, Any]], *odd: int) -> list[tuple[Any, ...]]:
    columns = ("step", "layer", "stage", "attempt", "neuron_norm_cv", "count", "flag")
    kept = [row for row in rows if row["step"] not in odd]
    return sorted(tuple(plain(row[name]) for name in columns) for row in kept)


def test_pandas(trace: Trace) -> None:
    metrics = run(PYTHON[0])["metrics"]
    assert shown(metrics.to_dict("records"), TWICE, NORMS_ALONE) == expected(trace, sealed=True)


def test_polars(trace: Trace) -> None:
    metrics = run(PYTHON[1])["metrics"]
    assert shown(metrics.to_dicts(), TWICE, NORMS_ALONE) == expected(trace, sealed=True)


def test_duckdb(trace: Trace) -> None:
    found = [row for row in duckdb.sql(SQL).fetchall() if row[0] not in (TWICE, NORMS_ALONE)]
    rows = [row for row in expected(trace, sealed=True) if row[2] == "update"]
    ours = sorted((plain(step), layer, plain(value)) for step, layer, value in found)
    assert ours == sorted((row[0], row[1], row[4]) for row in rows)


def test_all_of_it(trace: Trace) -> None:
    names = run(PYTHON[2])
    metrics: pa.Table = names["metrics"]
    assert shown(metrics.to_pylist()) == expected(trace, sealed=False, odd=())
    matrix = trace.matrix(12, "blocks.0.up.weight")
    assert np.array_equal(names["matrix"], matrix)
    assert len(PYTHON) == 3


def test_a_changed_byte_stops_it(trace: Trace) -> None:
    run_folder = Path("runs/a")
    segment, stream = max(run_folder.glob("updates/a*")), next(run_folder.glob("neurons/.wal-*s"))
    for path in (segment, stream.with_suffix(".arrows")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
        with pytest.raises(AssertionError, match=path.name):
            run(PYTHON[2])
        path.write_bytes(whole)


def test_a_stream_without_its_checksums_is_named(trace: Trace) -> None:
    sums = next(Path("runs/a/metrics").glob(".wal-*.sums"))
    sums.unlink()
    with pytest.raises(AssertionError, match=rf"{sums.name} is missing"):
        run(PYTHON[2])


def test_what_is_sealed_meanwhile_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is listed; before its first stream is read, the writers seal it."""
    monkeypatch.chdir(tmp_path)
    writers = [*write_everything(tmp_path / "runs/a", analysed=False)]
    names = run(PYTHON[2])
    read, count = names["read_stream"], len(names["read_rows"]("metrics"))

    def late(path: Path, columns: Any) -> pa.Table:
        while writers:
            writers.pop().close()
        return read(path, columns)

    names["read_stream"] = late
    assert len(names["read_rows"]("metrics")) == count
    assert not writers
    assert not list(Path("runs/a/metrics").glob(".wal-*"))
