"""Grids against metrics(), cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from optgeom.traces.derived import write_derived
from optgeom.traces.errors import TraceError
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import KEYS, Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter

MakeCell = Callable[..., Cell]
Record = Callable[..., None]
NUMBERS = ("neuron_norm_cv", "rank_of_it", "condition_number", "lr", "late", "no_such_column")
WORDS = ("status", "spectrum_status", "note", "late_word", "no_such_column")


def check(trace: Trace, stages: tuple[str, ...] = ("update", "momentum", "gradient")) -> None:
    """Every cell of every grid is what metrics() has there; nothing else is anywhere."""
    rows = trace.metrics().to_pylist()
    for stage in stages:
        axes = trace.grid("lr", stage)
        there = [row for row in rows if row["stage"] == stage]
        at = {(step, name) for step in axes.steps.tolist() for name in axes.layers}
        for column in NUMBERS:
            grid = trace.grid(column, stage)
            assert grid.steps.tolist() == axes.steps.tolist() == sorted(set(axes.steps.tolist()))
            assert grid.layers == axes.layers
            assert grid.values.shape == grid.recorded.shape == (len(grid.steps), len(grid.layers))
            expected = {(row["step"], row["layer"]): row.get(column) for row in there}
            for i, step in enumerate(grid.steps.tolist()):
                for j, layer in enumerate(grid.layers):
                    value = expected.get((step, layer))
                    found = float(grid.values[i, j])
                    if value is None or math.isnan(value):
                        assert math.isnan(found)
                    else:
                        assert found == float(value)
                    assert grid.recorded[i, j] or value is None
        for column in WORDS:
            words = trace.words(column, stage)
            assert (words.steps.tolist(), words.layers) == (axes.steps.tolist(), axes.layers)
            expected = {
                (row["step"], row["layer"]): row[column]
                for row in there
                if row.get(column) is not None and (row["step"], row["layer"]) in at
            }
            assert words.words == tuple(sorted(set(expected.values())))
            found = {
                (step, layer): words.words[words.codes[i, j]]
                for i, step in enumerate(words.steps.tolist())
                for j, layer in enumerate(words.layers)
                if words.codes[i, j] >= 0
            }
            assert found == expected


def test_a_trace(trace_path: Path, info: RunInfo) -> None:
    trace = open_trace(trace_path)
    check(trace)
    grid = trace.grid("neuron_norm_cv")
    assert grid.steps.tolist() == [0, 10, 20, 30]
    assert grid.layers == tuple(layer.name for layer in info.layers)
    assert (grid.values == grid.steps[:, None]).all()
    assert grid.recorded.all()
    assert trace.words("status").words == ("ok",)


def test_types_and_who_owns_them(trace_path: Path) -> None:
    trace = open_trace(trace_path)
    grid, words = trace.grid("condition_number"), trace.words("status")
    assert grid.steps.dtype == np.int64
    assert grid.values.dtype == np.float64
    assert grid.recorded.dtype == np.bool_
    assert words.codes.dtype == np.int16
    assert trace.grid("condition_number") is grid
    assert trace.words("status") is words
    for array in (grid.steps, grid.values, grid.recorded, words.steps, words.codes):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_the_axes_are_of_both_tables_and_recorded_of_the_columns_own(
    tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.metrics(cell(0), {"neuron_norm_cv": 1.0})
        writer.metrics(cell(3), {})
        writer.spectrum(cell(5), None, {"spectrum_status": "lost"})
        writer.spectrum(cell(7, stage="momentum"), None, {})
    trace = open_trace(tmp_path)
    check(trace)
    assert trace.grid("lr").steps.tolist() == [0, 3, 5]
    assert trace.grid("lr").recorded[:, 0].tolist() == [True, True, False]
    assert trace.grid("condition_number").recorded[:, 0].tolist() == [False, False, True]
    assert trace.grid("condition_number", "momentum").steps.tolist() == [7]
    assert not trace.grid("no_such_column").recorded.any()
    assert trace.grid("lr", "no such stage").values.shape == (0, 3)
    assert not trace.grid("lr").recorded[:, 1:].any()


def test_layers_beyond_run_json_come_last_by_name(
    tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        for name in ("z.weight", "another.weight"):
            key = Cell(0, "o", name, "other", None, "update")
            writer.metrics(key, {"neuron_norm_cv": float(len(name))})
    trace = open_trace(tmp_path)
    check(trace)
    known = tuple(layer.name for layer in layers)
    assert trace.grid("lr").layers == (*known, "another.weight", "z.weight")
    assert trace.grid("neuron_norm_cv").values[0, 3:].tolist() == [14.0, 8.0]


def test_the_newest_attempt_and_the_last_row(
    trace_path: Path, info: RunInfo, cell: MakeCell, record: Record
) -> None:
    with TraceWriter(trace_path, info, start_step=20) as writer:
        record(writer, [20], plus=0.5)
        record(writer, [30, 40], plus=0.5, layers=info.layers[:1])
        writer.metrics(cell(40), {"note": "again"})
        writer.metrics(cell(40), {"neuron_norm_cv": -1.0})
    trace = open_trace(trace_path)
    check(trace)
    grid = trace.grid("neuron_norm_cv")
    assert grid.values[:, 0].tolist() == [0.0, 10.0, 20.5, 30.5, -1.0]
    assert grid.recorded.sum(axis=1).tolist() == [3, 3, 3, 1, 1]


def test_derived_analyses_fill_what_is_null(
    tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.metrics(cell(0), {"neuron_norm_cv": 0.25, "status": "ok"})
        writer.metrics(cell(1), {"neuron_norm_cv": math.nan})
        writer.metrics(cell(2), {})
    trace = open_trace(tmp_path)
    first = trace.metrics(steps=0).select(list(KEYS)).to_pylist()[0]
    steps = [0, 1, 2, 3]
    keys = {name: [step if name == "step" else first[name] for step in steps] for name in KEYS}
    more = {
        "neuron_norm_cv": [9.0, 9.0, 9.0, 9.0],
        "condition_number": [None, 3.0, None, 4.0],
        "status": ["no", "late", None, "never"],
        "late": [1, None, 3, 4],
        "late_word": ["a", None, "b", "c"],
    }
    write_derived(trace, "analysis", pa.table(keys | more))
    write_derived(trace, "other", pa.table(keys | {"late": [5, 6, 7, 8], "status": ["x"] * 4}))
    assert trace.refresh()
    check(trace)
    assert trace.grid("neuron_norm_cv").steps.tolist() == [0, 1, 2]
    assert trace.grid("neuron_norm_cv").values[[0, 2], 0].tolist() == [0.25, 9.0]
    assert trace.grid("condition_number").recorded[:, 0].tolist() == [False, True, False]
    assert trace.grid("late").values[:, 0].tolist() == [1.0, 6.0, 3.0]
    assert trace.words("status").words == ("late", "ok", "x")


def test_a_live_run_with_two_ranks_is_followed(
    tmp_path: Path, info: RunInfo, record: Record
) -> None:
    first = TraceWriter(tmp_path, info)
    second = TraceWriter(tmp_path, info, rank=1)
    trace = open_trace(tmp_path)
    assert trace.grid("lr").values.shape == (0, 3)
    for step in range(4):
        record(first, [step], layers=info.layers[:2])
        record(second, [step], layers=info.layers[2:])
        first.flush()
        second.flush()
        before = trace.grid("neuron_norm_cv")
        assert trace.refresh()
        assert trace.grid("neuron_norm_cv").values.shape == (step + 1, 3)
        assert len(before.steps) == step
        check(trace)
    first.close()
    trace.refresh()
    check(trace)
    second.close()
    trace.refresh()
    check(trace)


def test_the_wrong_question_names_the_right_one(trace_path: Path) -> None:
    trace = open_trace(trace_path)
    with pytest.raises(TraceError, match=r"holds words: ask words\('status'\)"):
        trace.grid("status")
    with pytest.raises(TraceError, match=r"holds numbers: ask grid\('lr'\)"):
        trace.words("lr")
