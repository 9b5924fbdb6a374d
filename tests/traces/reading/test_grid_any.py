"""Grids of any records, however they were written, against metrics() and against the records."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.traces.derived import write_derived
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter

COLUMNS = {"metrics": {"x": "float64", "n": "int64", "flag": "bool"}, "spectra": {"y": "float32"}}
KNOWN = ("b", "a")
NAMES = (*KNOWN, "d", "c")
STAGES = ("update", "momentum")
NUMBERS = {"x": "metrics", "n": "metrics", "flag": "metrics", "y": "spectra", "late": "derived"}
WORDS = ("status", "spectrum_status", "kind")
LAYERS = tuple(LayerInfo(name, "other", None, (3, 2), "float32", "o", 0) for name in KNOWN)

values = st.none() | st.floats(width=32)


@dataclass(frozen=True)
class Row:
    rank: int
    table: str
    step: int
    layer: str
    stage: str
    values: Mapping[str, Any]

    @property
    def cell(self) -> Cell:
        return Cell(self.step, "o", self.layer, "other", None, self.stage)


def rows(table: str, columns: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Row]:
    return st.builds(
        Row,
        st.integers(0, 1),
        st.just(table),
        st.integers(0, 5),
        st.sampled_from(NAMES),
        st.sampled_from(STAGES),
        st.fixed_dictionaries({}, optional=columns),
    )


words = st.none() | st.sampled_from(["ok", "zero", "non_finite"])
records = rows(
    "metrics",
    {
        "x": values,
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "flag": st.none() | st.booleans(),
        "status": words,
    },
) | rows("spectra", {"y": values, "spectrum_status": words})
analyses = rows("derived", {"x": values, "y": values, "late": values, "status": words})
attempts = st.lists(st.lists(records, max_size=14), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    runs=attempts,
    derived=st.lists(st.lists(analyses, min_size=1, max_size=6), max_size=2),
    flushes=st.sets(st.integers(0, 14)),
    closed=st.booleans(),
)
def test_any_records(
    runs: list[list[Row]], derived: list[list[Row]], flushes: set[int], closed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        info = RunInfo("r", layers=LAYERS, columns=COLUMNS)
        follower: Trace | None = None
        writers: list[TraceWriter] = []
        for attempt, found in enumerate(runs):
            writers = [
                TraceWriter(
                    folder, info, rank=rank, start_step=0 if attempt else None, attempt=attempt
                )
                for rank in (0, 1)
            ]
            for writer in writers:
                stack.callback(writer.close)
            follower = follower or open_trace(folder)
            for count, row in enumerate(found):
                put(writers[row.rank], row)
                if count in flushes:
                    for writer in writers:
                        writer.flush()
                    follower.refresh()
                    check(follower)
            for writer in writers:
                writer.flush()
                if closed or attempt + 1 < len(runs):
                    writer.close()
        trace = open_trace(folder)
        for number, found in enumerate(derived):
            write_derived(trace, f"analysis-{number}", analysis(found, runs))
        assert follower is not None
        for one in (follower, trace, open_trace(folder)):
            one.refresh()
            check(one)
            check_recorded(one, runs, derived)
        for writer in writers:
            writer.close()
        follower.refresh()
        check(follower)


def put(writer: TraceWriter, row: Row) -> None:
    if row.table == "metrics":
        writer.metrics(row.cell, row.values)
    else:
        writer.spectrum(row.cell, None, row.values)


def newest_of(runs: list[list[Row]]) -> dict[int, int]:
    """Step -> the newest attempt that has a cell there."""
    return {row.step: attempt for attempt, found in enumerate(runs) for row in found}


def attempt_of(row: Row, runs: list[list[Row]]) -> int:
    """Of a row of an analysis: the newest, or where its rank is 1 perhaps one that is hidden."""
    several = sum(map(bool, runs)) > 1
    return 0 if row.rank and several else newest_of(runs).get(row.step, 0)


def analysis(found: list[Row], runs: list[list[Row]]) -> pa.Table:
    keys = [
        {
            "run": "r",
            "attempt": attempt_of(row, runs),
            "step": row.step,
            "optimizer": "o",
            "layer": row.layer,
            "kind": "other",
            "block": None,
            "stage": row.stage,
        }
        for row in found
    ]
    names = sorted({name for row in found for name in row.values})
    kinds = {name: pa.string() if name == "status" else pa.float64() for name in names}
    made = pa.Table.from_pylist(keys)
    for name, kind in kinds.items():
        made = made.append_column(name, pa.array([row.values.get(name) for row in found], kind))
    return made


def check(trace: Trace) -> None:
    """Every cell of every grid is what metrics() has there."""
    table = trace.metrics().to_pylist()
    for stage in (*STAGES, "weight"):
        there = {(row["step"], row["layer"]): row for row in table if row["stage"] == stage}
        for column in NUMBERS:
            grid = trace.grid(column, stage)
            assert grid.layers[: len(KNOWN)] == KNOWN
            assert list(grid.layers[len(KNOWN) :]) == sorted(set(grid.layers[len(KNOWN) :]))
            for i, step in enumerate(grid.steps.tolist()):
                for j, layer in enumerate(grid.layers):
                    value = there.get((step, layer), {}).get(column)
                    found = grid.values[i, j]
                    if value is None or math.isnan(value):
                        assert math.isnan(found)
                    else:
                        assert found == float(value)
                        assert grid.recorded[i, j]
        for column in WORDS:
            words = trace.words(column, stage)
            for i, step in enumerate(words.steps.tolist()):
                for j, layer in enumerate(words.layers):
                    code = words.codes[i, j]
                    shown = None if code < 0 else words.words[code]
                    assert shown == there.get((step, layer), {}).get(column)


def check_recorded(trace: Trace, runs: list[list[Row]], derived: list[list[Row]]) -> None:
    """Axes and what is recorded, from the records themselves."""
    newest = newest_of(runs)
    shown = [
        row for attempt, found in enumerate(runs) for row in found if newest[row.step] == attempt
    ]
    late = [
        row
        for found in derived
        for row in found
        if newest.get(row.step, 0) == attempt_of(row, runs)
    ]
    having = [found for found in derived if any("late" in row.values for row in found)]
    for stage in STAGES:
        steps = sorted({row.step for row in shown if row.stage == stage})
        extra = sorted({row.layer for row in shown} - set(KNOWN))
        for column, owner in NUMBERS.items():
            grid = trace.grid(column, stage)
            assert grid.steps.tolist() == steps
            assert grid.layers == (*KNOWN, *extra)
            cells = {
                (row.step, row.layer) for row in shown if (row.table, row.stage) == (owner, stage)
            }
            cells |= {
                (row.step, row.layer)
                for row in late
                if row.stage == stage and row.values.get(column) is not None
            }
            if owner == "derived":
                cells |= {
                    (row.step, row.layer)
                    for found in having[:1]
                    for row in found
                    if row in late and row.stage == stage
                }
            there = {
                (step, layer)
                for i, step in enumerate(steps)
                for j, layer in enumerate(grid.layers)
                if grid.recorded[i, j]
            }
            assert there == {cell for cell in cells if cell[0] in steps and cell[1] in grid.layers}
