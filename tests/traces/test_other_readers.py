"""pyarrow, polars, DuckDB and pandas read the tables of a trace directly, and read the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from optgeom.traces import open_trace
from tests.traces.compared import assert_same
from tests.traces.everything import LATER, write_everything
from tests.traces.plain_reader import File, PlainTrace, Table

Rows = list[dict[str, Any]]
UNION = {"metrics": 20, "spectra": 13, "neurons": 14, "updates": 15, "scalars": 5}
"""The columns of each table: those that the second attempt brought are among them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three attempts of two ranks in many segments, the later ones with more columns."""
    folder = tmp_path_factory.mktemp("readers") / "all"
    for writer in write_everything(folder, analysed=False):
        writer.close()
    assert len([*folder.glob("metrics/a*.parquet")]) > 5
    return folder


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that may neither fetch nor load an extension."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        yield connection
        loaded = "SELECT DISTINCT install_mode FROM duckdb_extensions() WHERE loaded"
        assert connection.sql(loaded).fetchall() == [("STATICALLY_LINKED",)]


def by_pyarrow(pattern: str) -> Rows:
    tables = [pq.read_table(path) for path in files(pattern)]
    rows: Rows = pa.concat_tables(tables, promote_options="default").to_pylist()
    return rows


def by_dataset(pattern: str) -> Rows:
    paths = files(pattern)
    schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
    rows: Rows = ds.dataset(paths, schema=schema).to_table().to_pylist()
    return rows


def by_polars(pattern: str) -> Rows:
    tables = [pl.scan_parquet(path) for path in files(pattern)]
    return pl.concat(tables, how="diagonal").collect().to_dicts()


def by_duckdb(pattern: str, connection: duckdb.DuckDBPyConnection) -> Rows:
    found = connection.sql(f"SELECT * FROM read_parquet('{pattern}', union_by_name = true)")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_pandas(pattern: str) -> Rows:
    table = pd.concat([pd.read_parquet(path) for path in files(pattern)])
    return [
        {str(name): None if is_null(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def files(pattern: str) -> list[str]:
    path = Path(pattern)
    return sorted(map(str, path.parent.glob(path.name)))


def read_by(reader: Callable[[str], Rows]) -> Callable[[Path], Table]:
    """A rank at a time: scalars have no column for it, only the name of their file."""

    def read(table: Path) -> Table:
        found = []
        for rank in sorted({path.name[6:12] for path in table.glob("a*.parquet")}):
            rows = reader(f"{table}/a*-{rank}-*.parquet")
            assert len({name for row in rows for name in row}) == UNION[table.name]
            found.append((File(0, int(rank[1:]), 0, 0, "", table), rows))
        return found

    return read


@pytest.mark.parametrize("reader", [by_pyarrow, by_dataset, by_polars, by_duckdb, by_pandas])
def test_each_reader_has_the_numbers_of_ours(
    folder: Path, reader: Callable[..., Rows], duck: duckdb.DuckDBPyConnection
) -> None:
    def rows(pattern: str) -> Rows:
        return reader(pattern, duck) if reader is by_duckdb else reader(pattern)

    plain = PlainTrace(folder, read_by(rows))
    compared = assert_same(open_trace(folder), plain, nan_is_null=reader is by_pandas)
    assert min(compared.values()) > 15, compared
    flags = {row.get("flag") for row in plain.metrics().values()}
    assert flags == {None, True, False}


def test_the_first_file_alone_says_which_columns_there_are(
    folder: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    """What docs/traces.md warns of: columns of a later attempt go without a word, or all fails."""
    pattern = str(folder / "metrics/a*.parquet")
    new = LATER["metrics"].keys() - {"neuron_norm_cv", "count"}
    for columns in (
        pq.ParquetDataset(files(pattern)).read().column_names,
        pq.read_table(folder / "metrics").column_names,
        pd.read_parquet(files(pattern)).columns,
        duck.sql(f"SELECT * FROM '{pattern}'").columns,
    ):
        assert not new & set(columns)
    with pytest.raises(pl.exceptions.SchemaError, match="extra column"):
        pl.read_parquet(pattern)


def test_which_readers_may_be_pointed_at_the_folder(
    tmp_path: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    """Streams and files that are being written lie beside the segments, under names with a dot."""
    writers = write_everything(tmp_path / "all", analysed=False)
    neurons = tmp_path / "all/neurons"
    (neurons / ".tmp-1-a0000-r00000-s000009.parquet").write_bytes(b"PAR1, to be")
    assert [*neurons.glob(".wal-*.arrows")]
    pattern = f"{neurons}/a*.parquet"
    rows = sum(pq.read_metadata(path).num_rows for path in files(pattern))
    assert rows > 300
    assert pq.read_table(neurons).num_rows == rows
    assert ds.dataset(neurons, format="parquet").count_rows() == rows
    assert len(pd.read_parquet(neurons)) == rows
    assert pl.read_parquet(pattern).height == rows
    assert duck.sql(f"SELECT * FROM '{pattern}'").shape[0] == rows
    with pytest.raises(pl.exceptions.InvalidOperationError, match="different file extensions"):
        pl.read_parquet(neurons)
    with pytest.raises(duckdb.Error, match=r"\.tmp-1"):
        duck.sql(f"SELECT * FROM '{neurons}/*.parquet'").fetchall()
    for writer in writers:
        writer.close()
