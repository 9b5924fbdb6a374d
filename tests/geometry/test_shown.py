"""Comparisons, diagnoses and what-ifs in a notebook, and in polars, pandas and DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

import optgeom
from optgeom.geometry import Diagnosis, Evidence, Finding
from tests.geometry.counterfactual.training import train

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    for name in ("one", "two"):
        train(folder / name, "muon", 3, stages=("update", "momentum", "ns_input"))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    traces = optgeom.open_traces(folder)
    whatif = optgeom.whatif(traces["one"], ("polar", "muon"), out=folder.parent / "computed")
    return {
        "comparison": optgeom.compare(traces, metrics="neuron_norm_cv"),
        "whatif": whatif,
        "diagnosis": diagnosis(),
        "metrics": traces.metrics(),
    }


def diagnosis() -> Diagnosis:
    evidence = (
        Evidence("up", 3, "update", "update_rms", 0.1, "0.2"),
        Evidence("", 4, "", EVIL, None, ""),
    )
    finding = Finding(
        "rule", "severe", EVIL, ("up", "down"), (3, 4), evidence, "a cause", "a way out"
    )
    return Diagnosis(
        "run", (finding,), ("rule",), {"other": "it could not", "third": "it could not"}
    )


@pytest.mark.parametrize("name", ["comparison", "whatif", "diagnosis", "metrics"])
def test_polars_pandas_and_duckdb_take_it_as_it_is(found: dict[str, Any], name: str) -> None:
    one = found[name]
    table = one if name == "metrics" else one.table
    assert table.num_rows
    shape = (table.num_rows, table.num_columns)
    by_polars, by_pandas = pl.DataFrame(one), pd.DataFrame.from_arrow(one)
    by_duckdb = duckdb.sql("FROM one").pl()
    assert by_polars.shape == by_pandas.shape == by_duckdb.shape == shape
    assert by_polars.columns == list(by_pandas.columns) == by_duckdb.columns == table.column_names
    assert by_polars.to_dicts() == by_duckdb.to_dicts()
    key = table.column_names[0]
    assert by_polars[key].to_list() == by_pandas[key].tolist() == table[key].to_pylist()


def test_the_tables_hold_what_the_objects_say(found: dict[str, Any]) -> None:
    assert found["whatif"].table == found["whatif"].summary()
    (row,) = found["diagnosis"].table.to_pylist()
    assert row == found["diagnosis"].to_json()["findings"][0]
    nothing = Diagnosis("run", (), (), {})
    assert nothing.table.schema == found["diagnosis"].table.schema
    assert pl.DataFrame(nothing).shape == (0, 8)


def test_a_diagnosis_shows_cause_and_advice_and_what_it_could_not_see() -> None:
    page = diagnosis()._repr_html_()
    assert "<script" not in page
    for word in ("1 severe", "1 of 3 rules could look", "a cause", "a way out"):
        assert word in page
    assert page.count("<li>") == 1
    assert "not judged: other, third: it could not" in page
    assert repr(diagnosis()) == f"severe: {EVIL}"


def test_a_whatif_shows_each_rule_with_its_answer(found: dict[str, Any]) -> None:
    whatif = found["whatif"]
    page = whatif._repr_html_()
    assert page.count("<table") == 2
    assert page.count("<li>") == sum(len(whatif.findings(rule)) for rule in whatif.rules)
    assert "mlp.up" in page


def test_a_rule_without_an_answer_shows_why(folder: Path, tmp_path: Path) -> None:
    found = optgeom.whatif(optgeom.open_trace(folder / "two"), "normuon", out=tmp_path)
    page = found._repr_html_()
    assert "no medians" in page
    assert "<table" not in page
    assert "<li>" in page
