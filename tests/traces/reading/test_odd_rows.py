"""Rows and folders that should not be: nothing of them hides what is right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optgeom.traces.derived import write_derived
from optgeom.traces.errors import TraceError
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.trace import open_trace
from optgeom.traces.writer import TraceWriter


def _writer(out: Path, created: str = "2026-11-27T00:00:00+00:00") -> TraceWriter:
    layers = tuple(
        LayerInfo(name, "other", None, (4, 4), "float32", "o", 0, "muon", "rows") for name in "ab"
    )
    info = RunInfo(
        run="x",
        created=created,
        versions={},
        command=(),
        capture={},
        optimizers=(OptimizerInfo("o", "torch.optim.Muon", ({},)),),
        layers=layers,
        config={},
        columns={"metrics": {"x": "float64"}, "spectra": {}},
    )
    return TraceWriter(out, info)


def _cell(step: Any, layer: str = "a", stage: str = "update") -> Cell:
    return Cell(step, "o", layer, "other", None, stage)


def _put(writer: TraceWriter, value: float, count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        writer.metrics(_cell(step), {"x": value})
    writer.flush()


def _x(trace: Any) -> list[float]:
    found: list[float] = trace.grid("x").values[:, 0].tolist()
    return found


@pytest.mark.parametrize("count", [3, 10, 25])
def test_a_run_started_again_in_the_same_place_shows_nothing_of_the_old_one(
    tmp_path: Path, count: int
) -> None:
    out = tmp_path / "x"
    old = _writer(out)
    _put(old, 1.0, 5)
    _put(old, 1.0, 5, start=5)
    trace = open_trace(out)
    assert _x(trace) == [1.0] * 10
    shutil.move(out, tmp_path / "moved")
    new = _writer(out, created="2026-11-28T00:00:00+00:00")
    _put(new, 2.0, count)
    trace.refresh()
    assert _x(trace) == [2.0] * count == _x(open_trace(out))
    new.close()
    old.close()


def test_a_number_without_a_step_or_a_name_is_left_out_and_counted(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "x")
    writer.scalar(1, "loss", 2.0)
    writer.scalar(None, "loss", 3.0)  # type: ignore[arg-type]
    writer.scalar(1, None, 99.0)  # type: ignore[arg-type]
    writer.metrics(_cell(None), {"x": 5.0})
    writer.metrics(_cell(1), {"x": 4.0})
    writer.close()
    trace = open_trace(tmp_path / "x")
    assert trace.scalars("loss").column("value").to_pylist() == [2.0]
    assert trace.last_step == 1
    assert _x(trace) == [4.0]
    assert writer.dropped["scalars.step"] == 1
    assert writer.dropped["scalars.name"] == 1
    assert writer.dropped["metrics.step"] == 1


def _derived(out: Path, name: str, layer: str, **columns: Any) -> None:
    keys = {
        "run": ["x"],
        "attempt": pa.array([0], pa.int32()),
        "step": pa.array([1], pa.int64()),
        "optimizer": ["o"],
        "layer": [layer],
        "kind": ["other"],
        "block": pa.array([None], pa.int16()),
        "stage": ["update"],
    }
    write_derived(open_trace(out), name, pa.table(keys | columns))


def test_a_grid_is_the_same_whatever_was_asked_before(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "x")
    _put(writer, 1.0, 2)
    writer.close()
    _derived(tmp_path / "x", "late", "b", y=[7.0], q=pa.nulls(1))
    first = open_trace(tmp_path / "x").grid("y").values
    other = open_trace(tmp_path / "x")
    other.metrics()
    np.testing.assert_array_equal(first, other.grid("y").values)
    assert first[1, 1] == 7.0
    assert np.isnan(open_trace(tmp_path / "x").grid("q").values).all()


def test_a_column_of_two_types_is_an_error_that_says_so(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "x")
    _put(writer, 1.0, 2)
    writer.close()
    _derived(tmp_path / "x", "late", "a", y=["text"])
    _derived(tmp_path / "x", "late", "b", y=[7.0])
    with pytest.raises(TraceError, match="holds words"):
        open_trace(tmp_path / "x").grid("y")


def test_a_stage_of_one_table_alone_is_known_at_the_first_question(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "x")
    _put(writer, 1.0, 2)
    writer.neurons(_cell(1, stage="gradient"), np.ones(4, np.float32))
    writer.close()
    assert open_trace(tmp_path / "x").metrics(stages="gradient").num_rows == 0
