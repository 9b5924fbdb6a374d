"""Tables as files for others: what is written reads back as what the trace shows."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from optgeom.cli import cli
from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter, open_trace
from optgeom.traces.derived import write_derived
from optgeom.traces.errors import NotCaptured, TraceError
from optgeom.traces.keeping.export import export
from optgeom.traces.keeping.export_rows import Chosen, joined_rows
from optgeom.traces.keeping.export_text import CsvFile
from optgeom.traces.reading.reader import TraceFiles
from tests.traces.everything import HEAD, UP, write_everything

TABLES = ("joined", "metrics", "spectra", "neurons", "scalars")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """One of everything: attempts, ranks, odd numbers, analyses, names like formulas."""
    folder = tmp_path_factory.mktemp("export") / "all"
    for writer in write_everything(folder):
        writer.close()
    return open_trace(folder)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return bool(one == other) and math.copysign(1, one or 0) == math.copysign(1, other or 0)


def value_of(text: str, kind: pa.DataType) -> Any:
    if pa.types.is_dictionary(kind):
        return text.removeprefix("'") or None
    if not text:
        return None
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text]
    return int(text) if pa.types.is_integer(kind) else float(text)


def assert_csv(path: Path, table: pa.Table) -> None:
    rows = read_csv(path)
    assert len(rows) == table.num_rows
    assert [name.removeprefix("'") for name in rows[0]] == table.column_names
    for row, expected in zip(rows, table.to_pylist(), strict=True):
        for text, (name, value) in zip(row.values(), expected.items(), strict=True):
            found = value_of(text, table.schema.field(name).type)
            assert found == value if isinstance(value, str) else same(found, value), (name, text)


def test_the_joined_table_as_csv(trace: Trace, tmp_path: Path) -> None:
    done = export(trace, tmp_path / "all.csv")
    table = trace.metrics()
    assert_csv(tmp_path / "all.csv", table)
    assert (done.path, done.rows) == (str(tmp_path / "all.csv"), table.num_rows)
    assert list(done.columns) == table.column_names
    numbers = table.column("condition_number").to_pylist()
    assert {math.inf, -math.inf, None, 5e-324} <= set(numbers)


def test_pandas_polars_and_duckdb_read_the_csv_back(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    export(trace, path, steps=slice(6, None), stages="update", layers=UP.name)
    table = trace.metrics(steps=slice(6, None), stages="update", layers=UP.name)
    assert table.num_rows > 8
    columns = {
        "pandas": pd.read_csv(path).to_dict("list"),
        "polars": pl.read_csv(path, infer_schema_length=None).to_dict(as_series=False),
        "duckdb": duckdb.sql(
            f"SELECT * FROM read_csv('{path}', sample_size = -1)"
        ).to_arrow_table(),
    }
    columns["duckdb"] = columns["duckdb"].to_pydict()
    for reader, found in columns.items():
        for name in ("step", "layer", "condition_number", "neuron_norm_cv", "flag", "y"):
            for one, other in zip(found[name], table.column(name).to_pylist(), strict=True):
                # pandas has null and NaN as one
                missing = other is None or (isinstance(other, float) and math.isnan(other))
                ours = one is None or (isinstance(one, float) and math.isnan(one))
                equal = one == other if isinstance(other, str) else same(one, other)
                assert (missing and ours) or equal, (reader, name, one, other)


@pytest.mark.parametrize("table", TABLES)
def test_parquet_and_json_lines_hold_the_same(trace: Trace, tmp_path: Path, table: str) -> None:
    for suffix in ("parquet", "jsonl"):
        export(trace, tmp_path / f"x.{suffix}", table=table)
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 15
    assert repr([json.loads(line) for line in lines]) == repr(rows)
    if table == "joined":
        assert repr(rows) == repr(trace.metrics().to_pylist())


def test_metrics_alone(trace: Trace, tmp_path: Path) -> None:
    export(trace, tmp_path / "x.parquet", table="metrics")
    table = pq.read_table(tmp_path / "x.parquet")
    assert "condition_number" not in table.column_names
    # what the records leave null an analysis has filled in the joined table alone
    joined = trace.metrics().column("neuron_norm_cv")
    assert table.column("neuron_norm_cv").null_count > joined.null_count


def test_singular_values_a_row_per_number(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    export(trace, path, table="spectra", layers=[HEAD.name, UP.name])
    found: dict[tuple[int, str, str], list[float]] = {}
    empty = set()
    for row in read_csv(path):
        cell = int(row["step"]), row["layer"].removeprefix("'"), row["stage"]
        if row["index"]:
            values = found.setdefault(cell, [])
            assert int(row["index"]) == len(values)
            values.append(float(row["singular_value"]))
        else:
            assert row["singular_value"] == ""
            empty.add(cell)
    assert {layer for _, layer, _ in found} == {HEAD.name, UP.name}
    cells = [
        (step, layer, stage)
        for layer, stage in trace.cell_names("spectra")
        if layer in (HEAD.name, UP.name)
        for step in trace.steps(layer, stage, "spectra").tolist()
    ]
    assert {*cells} == {*found, *empty}
    for cell in cells:
        if cell in found:
            assert found[cell] == trace.spectrum(*cell).tolist()
        elif cell[0] == 5:  # of this step, spectra have no values
            assert not len(trace.spectrum(*cell))
        else:
            with pytest.raises(NotCaptured, match="is null"):
                trace.spectrum(*cell)


def test_norms_are_put_together_from_blocks(trace: Trace, tmp_path: Path) -> None:
    export(trace, tmp_path / "x.csv", table="neurons", stages="update", steps=[2, 8])
    table = pd.read_csv(tmp_path / "x.csv")
    cells = table.groupby(["step", "layer"], sort=False)
    assert len(cells) == 8
    for (step, layer), rows in cells:
        norms = trace.neuron_norms(step, layer.removeprefix("'"))
        assert rows.neuron.tolist() == [*range(len(norms))]
        assert np.array_equal(rows.neuron_norm, norms.astype(float), equal_nan=True)
    assert table.neuron_norm.isna().any()  # step 2, which rank 1 has nothing of


def test_scalars(trace: Trace, tmp_path: Path) -> None:
    export(trace, tmp_path / "x.csv", table="scalars", steps=range(3, 9))
    rows = [(int(r["step"]), r["name"], float(r["value"])) for r in read_csv(tmp_path / "x.csv")]
    expected = [tuple(row.values()) for row in trace.scalars().to_pylist()]
    assert rows == [row for row in expected if 3 <= row[0] < 9]
    with pytest.raises(TraceError, match="not to layers and stages"):
        export(trace, tmp_path / "y.csv", table="scalars", layers=UP.name)


@pytest.mark.parametrize("window", [1, 7, 40, 1 << 16])
def test_a_window_at_a_time_is_the_whole(trace: Trace, window: int) -> None:
    """What keeps memory bounded changes no row, and no order of rows."""
    for attempt in (Chosen(), Chosen(steps=slice(2, 15, 3)), Chosen(stages=frozenset({"update"}))):
        rows = joined_rows(TraceFiles(trace.place, trace.cache), attempt, window=window)
        tables = list(rows.tables)
        stages = None if attempt.stages is None else [*attempt.stages]
        whole = trace.metrics(steps=attempt.steps, stages=stages)
        assert pa.concat_tables(tables).schema == whole.schema
        assert repr(pa.concat_tables(tables).to_pylist()) == repr(whole.to_pylist())
        assert max(one.num_rows for one in tables) <= max(window, 12)


def test_text_that_a_spreadsheet_would_run_begins_with_an_apostrophe(tmp_path: Path) -> None:
    name, metric = '=HYPERLINK("http://x")', "@metric"
    info = RunInfo(
        "-run",
        layers=(LayerInfo(name, "other", None, (2, 2), "float32", "+o", 0),),
        columns={"metrics": {metric: "float64"}},
    )
    with TraceWriter(tmp_path / "a", info) as writer:
        writer.metrics(Cell(0, "+o", name, "other", None, "update"), {metric: -1.0, "status": "'x"})
    export(open_trace(tmp_path / "a"), tmp_path / "x.csv")
    (row,) = read_csv(tmp_path / "x.csv")
    assert (row["layer"], row["run"], row["optimizer"]) == (f"'{name}", "'-run", "'+o")
    assert (row["'@metric"], row["status"]) == ("-1.0", "''x")


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        )
    )
)
def test_any_row_reads_back(rows: list[tuple[Any, ...]]) -> None:
    kinds = (pa.float64(), pa.int64(), pa.bool_(), pa.string())
    columns = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(kinds)]
    columns.append(columns[-1].dictionary_encode())
    table = pa.table(columns, names=[*"xnfwd"])
    text = io.StringIO(newline="")
    sink = CsvFile(text)
    sink.begin(table.schema)
    sink.write(table)
    text.seek(0)
    header, *lines = csv.reader(text)
    assert header == [*"xnfwd"]
    assert len(lines) == len(rows)
    for (x, n, f, w, d), row in zip(lines, rows, strict=True):
        assert same(value_of(x, pa.float64()), row[0])
        assert value_of(n, pa.int64()) == row[1]
        assert value_of(f, pa.bool_()) == row[2]
        assert w == d
        assert not w.startswith(tuple("=+-@\t\r"))
        assert (w.removeprefix("'") or None) == row[3]


def test_nothing_is_replaced_unasked_and_nothing_is_left_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for writer in write_everything(folder, analysed=False):
        writer.close()
    trace, path = open_trace(folder), tmp_path / "x.csv"
    path.write_text("mine")
    with pytest.raises(TraceError, match=r"is there already.*overwrite=True"):
        export(trace, path)
    segment = max(folder.glob("metrics/a*"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:500] + b"\0" + whole[501:])
    with pytest.raises(TraceError, match="Restore it from a copy"):
        export(open_trace(folder), path, overwrite=True)
    assert path.read_text() == "mine"
    assert {one.name for one in tmp_path.iterdir()} == {"x.csv", "all"}
    segment.write_bytes(whole)
    export(trace, path, table="spectra", overwrite=True)
    assert path.read_text().startswith("run,attempt,step,")


def test_errors_name_the_rule(trace: Trace, tmp_path: Path) -> None:
    for match, path, wrong in (
        ("pass one of joined, metrics, spectra, neurons, scalars", "x.csv", {"table": "updates"}),
        ("name that ends in .csv, .jsonl, .parquet", "x.xlsx", {}),
        ("cannot be written: No such file", "missing/x.csv", {}),
        ("no step 99 in", "x.csv", {"steps": 99}),
        ("did you mean blocks.0.up.weight", "x.csv", {"layers": "blocks.0.up"}),
        ("no stage 'weight' was captured in .*there is momentum", "x.csv", {"stages": "weight"}),
    ):
        with pytest.raises(TraceError, match=match):
            export(trace, tmp_path / path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=r"to local files, not to s3://\*\*\*@b/x.csv"):
        export(trace, "s3://KEY:SECRET@b/x.csv")
    assert not [*tmp_path.iterdir()]


def test_a_column_that_csv_has_no_way_to_hold(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with TraceWriter(folder, RunInfo("a")) as writer:
        writer.metrics(Cell(0, "o", "w", "other", None, "update"), {"status": "ok"})
    trace = open_trace(folder)
    lists = pa.array([[1.0, 2.0]], pa.list_(pa.float64()))
    write_derived(trace, "later", trace.metrics().append_column("several", lists))
    trace = open_trace(folder)
    with pytest.raises(TraceError, match=r"column several holds list.*write \.parquet"):
        export(trace, tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
    export(trace, tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text())["several"] == [1.0, 2.0]
    export(trace, tmp_path / "x.csv", table="metrics")


def test_a_trace_without_rows_gives_a_header(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a", RunInfo("a")):
        pass
    for table in TABLES:
        done = export(open_trace(tmp_path / "a"), tmp_path / f"{table}.csv", table=table)
        assert done.rows == 0
        assert (tmp_path / f"{table}.csv").read_text() == ",".join(done.columns) + "\n"
        assert export(
            open_trace(tmp_path / "a"), tmp_path / f"{table}.parquet", table=table
        ).rows == len(pq.read_table(tmp_path / f"{table}.parquet"))


def test_the_command(trace: Trace, tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "x.csv")
    arguments = ["trace", "export", trace.path, "--stage", "update", "--steps", "0:9"]
    done = runner.invoke(cli, [*arguments, "--to", path])
    rows = trace.metrics(stages="update", steps=slice(0, 9))
    assert done.output == f"{rows.num_rows} rows and {rows.num_columns} columns in {path}\n"
    assert_csv(Path(path), rows)
    done = runner.invoke(cli, [*arguments, "--to", "-"])
    assert done.output == Path(path).read_text(encoding="utf-8")
    done = runner.invoke(cli, [*arguments, "--to", path])
    assert isinstance(done.exception, TraceError)
    assert runner.invoke(cli, [*arguments, "--to", path, "--overwrite"]).exit_code == 0
