"""What a recorder, a description and an audit show in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import torch

import optgeom
from optgeom.hooks.auditing.report import Answer, AuditFinding, AuditReport
from optgeom.hooks.clock import Clocks
from optgeom.hooks.describe import ROWS, describe
from optgeom.hooks.layers import Decision
from tests.hooks.conftest import train

EVIL = "<script>alert('x')</script>"


def test_a_recorder_says_where_it_is(bag: Callable[..., Any], tmp_path: Path) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with optgeom.watch(model, optimizer, tmp_path / "run", every=1, budget=None) as rec:
        train(model, optimizer, range(3))
        page = rec._repr_html_()
        assert "recording" in page
        assert ">3<" in page
        assert f"{len(model.state_dict())}; describe() says which" in page
        assert "stopped by" not in page
        assert "step 3" in repr(rec)
    assert "closed" in rec._repr_html_()
    assert "closed" in repr(rec)


def test_one_that_was_stopped_says_by_what(bag: Callable[..., Any], tmp_path: Path) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with optgeom.watch(model, optimizer, tmp_path / "run", every=1, budget=None) as rec:
        rec._guard.fail(RuntimeError(EVIL))
        page = rec._repr_html_()
    assert "stopped" in page
    assert "RuntimeError: &lt;script&gt;" in page
    assert "<script" not in page


def test_a_description_is_a_page_and_a_table() -> None:
    decisions = (
        Decision(EVIL, (4, 4), "mlp.up", ("cut",), (("mlp.up", (2, 4)), ("mlp.gate", (2, 4)))),
        *(Decision(f"bias{i}", (4,), "not a matrix") for i in range(ROWS + 1)),
    )
    found = describe(decisions, [], Clocks.of(50, None, None, 1), 1)
    page = found._repr_html_()
    assert "<script" not in page
    assert page.count("<tr>") == ROWS + 1
    assert "2 more parameters" in page
    assert "captured: 2 matrices of 1 parameter" in page
    rows = found.table.to_pylist()
    assert len(rows) == len(decisions)
    assert rows[0]["matrices"][1] == {"kind": "mlp.gate", "shape": [2, 4]}
    assert [row["captured"] for row in rows[:2]] == [True, False]
    assert pl.DataFrame(found).shape == pd.DataFrame.from_arrow(found).shape == (ROWS + 2, 6)
    assert duckdb.sql("SELECT count(*) FROM found WHERE captured").fetchall() == [(1,)]


def test_an_audit_is_a_page_a_table_and_lines() -> None:
    answers = {
        "neuron_axis": Answer("rows", "the same on all shapes"),
        "singular_value_band": Answer([0.68, 1.13], EVIL),
        "second_moment_decay": Answer(None, "it does not normalize"),
    }
    report = AuditReport(
        EVIL,
        {"lr": 0.02},
        answers,
        {"zero": "no update"},
        {"even shards": "the same. Traceback"},
        ((), ()),
        (AuditFinding("severe", "it goes up"),),
    )
    page = report._repr_html_()
    assert "<script" not in page
    for word in ("severe: it goes up", "0.68 to 1.13", "gradient, zero: no update", "lr=0.02"):
        assert word in page
    assert "two ranks, even shards: the same<" in page
    assert [line for line in repr(report).splitlines() if "rows" in line] == [
        "neuron_axis          rows          the same on all shapes"
    ]
    assert repr(report).endswith("- severe: it goes up")
    values = ["rows", "[0.68, 1.13]", None]
    assert pl.DataFrame(report)["value"].to_list() == values
    assert report.table["answer"].to_pylist() == list(answers)
    assert pd.DataFrame.from_arrow(report).shape == (3, 3)
    assert duckdb.sql("SELECT value FROM report").fetchall() == [(value,) for value in values]
