"""What traces show in a notebook: what they hold, what is wrong, and at what price."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from optgeom.traces import open_trace, open_traces
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.shown import RUNS
from optgeom.traces.writer import TraceWriter

TIMES = "\N{MULTIPLICATION SIGN}"
EVIL = "</table><script>alert('x')</script>"


def texts(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


@pytest.fixture
def costly(trace_path: Path) -> Path:
    """The trace of the fixture, resumed, with what its capture cost."""
    info = open_trace(trace_path).info
    with TraceWriter(trace_path, info, start_step=31) as writer:
        writer.scalar(31, "capture_share", 0.5)
        writer.scalar(35, "capture_share", 0.0083)
    return trace_path


def test_a_trace_says_what_it_holds(costly: Path) -> None:
    trace = open_trace(costly)
    said = texts(trace._repr_html_())
    for fact in (
        f"{trace.name} closed",
        "optimizer Muon",
        "captured 4 steps, 0 to 30",
        "stages momentum, update",
        "0.83 % of the run's time",
        f"mlp.up 1 8 {TIMES} 4 muon",
        f"head 1 6 {TIMES} 4 adamw",
    ):
        assert fact in said
    assert "raw matrices in" in said


def test_a_folder_has_a_row_for_each(costly: Path, info: RunInfo) -> None:
    TraceWriter(costly.parent / "live", info)
    page = open_traces(costly.parent)._repr_html_()
    said = texts(page)
    assert f"{costly.name} Muon 3 4 steps, 0 to 30 momentum, update" in said
    assert "live Muon 3 nothing yet none" in said
    assert page.count("<tr>") == 3


@pytest.mark.parametrize("table", ["metrics", "spectra", "neurons", "scalars"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_damage_is_shown_and_raises_nothing(costly: Path, table: str, how: str) -> None:
    trace = open_trace(costly)
    for file in (costly / table).glob("a*.parquet"):
        data = file.read_bytes()
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(data[: len(data) // 2] if how == "cut" else data[:-40] + bytes(40))
    for page in (trace._repr_html_(), open_trace(costly)._repr_html_()):
        assert "mlp.up" in page
        assert costly.name in page
    said = texts(trace._repr_html_())
    if how == "cut" and table in ("metrics", "scalars"):
        assert "cannot be read: DamagedTrace" in said
    assert open_traces(costly.parent)._repr_html_().startswith("<div>")


def test_one_that_cannot_be_opened_stands_below(costly: Path, info: RunInfo) -> None:
    TraceWriter(costly.parent / "b", info).close()
    file = costly.parent / "b" / "run.json"
    file.write_bytes(file.read_bytes()[:-60])
    said = texts(open_traces(costly.parent)._repr_html_())
    assert "1 run " in said
    assert "b is left out:" in said
    assert "damaged" in said


def test_a_failed_run_says_why(tmp_path: Path, info: RunInfo) -> None:
    TraceWriter(tmp_path / "run", info).close(OSError("no space left"))
    assert "failed: OSError: no space left" in texts(open_trace(tmp_path / "run")._repr_html_())


def test_names_of_strangers_are_text(tmp_path: Path, info: RunInfo) -> None:
    layer = LayerInfo(EVIL, EVIL, 0, (8, 4), "float32", "muon", 0, EVIL)
    odd = replace(info, run=EVIL, layers=(layer,))
    with TraceWriter(tmp_path / "<b>run", odd) as writer:
        writer.metrics(Cell(0, "muon", EVIL, EVIL, 0, "update"), {"neuron_norm_cv": 1.0})
    for page in (
        open_trace(tmp_path / "<b>run")._repr_html_(),
        open_traces(tmp_path)._repr_html_(),
    ):
        assert "<script" not in page
        assert "<b>run" not in page.replace("<b>&lt;b&gt;run", "")
    assert "&lt;script&gt;" in open_trace(tmp_path / "<b>run")._repr_html_()


def test_no_raw_segment_is_opened(costly: Path) -> None:
    raw = list((costly / "updates").glob("a*.parquet"))
    assert raw
    for file in raw:  # whoever opened one would find it damaged
        file.write_bytes(bytes(file.stat().st_size))
    trace = open_trace(costly)
    assert "cannot be read" not in trace._repr_html_()
    assert "raw matrices" in trace._repr_html_()
    with pytest.raises(DamagedTrace):
        trace.steps(table="updates")


def test_of_many_runs_the_rest_is_named(tmp_path: Path, info: RunInfo) -> None:
    for place in range(RUNS + 2):
        TraceWriter(tmp_path / f"run{place:02}", info).close()
    page = open_traces(tmp_path)._repr_html_()
    assert page.count("<tr>") == RUNS + 1
    assert f"and 2 more: run{RUNS}, run{RUNS + 1}" in texts(page)


def test_an_empty_trace(tmp_path: Path, cell: Callable[..., Cell]) -> None:
    TraceWriter(tmp_path / "run", RunInfo("run")).close()
    said = texts(open_trace(tmp_path / "run")._repr_html_())
    assert "captured nothing" in said
    assert "no layers" in said
