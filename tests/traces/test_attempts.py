"""A run that was resumed: what is shown of which attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.info import RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter

MakeCell = Callable[..., Cell]
Record = Callable[..., None]


@pytest.fixture
def resumed(trace_path: Path, info: RunInfo, record: Record) -> Trace:
    with TraceWriter(trace_path, info, start_step=20) as writer:
        record(writer, [20], plus=0.5)
        record(writer, [30, 40], plus=0.5, layers=info.layers[:1])
    return open_trace(trace_path)


def test_each_step_from_the_newest_that_has_it(resumed: Trace) -> None:
    table = resumed.metrics(stages="update", layers="blocks.0.up.weight")
    assert table.column("attempt").to_pylist() == [0, 0, 1, 1, 1]
    assert table.column("neuron_norm_cv").to_pylist() == [0.0, 10.0, 20.5, 30.5, 40.5]


def test_a_step_is_of_one_attempt_in_every_table(resumed: Trace) -> None:
    assert resumed.steps("head.weight").tolist() == [0, 10, 20]
    assert resumed.spectrum(20, "head.weight")[0] == 24.5
    assert resumed.neurons("head.weight")[0].tolist() == [0, 10, 20]
    # attempt 0 has a matrix at step 20, but it is not of the trajectory that is shown
    assert resumed.steps(table="updates").tolist() == [0]
    assert resumed.scalars("loss").column("step").to_pylist() == [0, 10, 20, 30, 40]
    assert resumed.scalars("loss").column("value").to_pylist()[2] == 1 / 21 + 0.5


def test_all(resumed: Trace) -> None:
    rows = resumed.metrics(steps=20, layers="head.weight", stages="update", attempts="all")
    assert rows.column("neuron_norm_cv").to_pylist() == [20.0, 20.5]


def test_a_scalar_hides_no_cell_of_an_older_attempt(
    trace_path: Path, info: RunInfo, record: Record
) -> None:
    with TraceWriter(trace_path, info, start_step=31) as writer:
        writer.scalar(20, "loss", -1.0)
        writer.scalar(30, "validation", 2.0)
        record(writer, [40], plus=0.5)
    trace = open_trace(trace_path)
    assert trace.steps().tolist() == [0, 10, 20, 30, 40]
    assert trace.metrics().column("attempt").to_pylist() == [0] * 24 + [1] * 6
    for table in ("spectra", "neurons"):
        assert trace.steps(table=table).tolist() == [0, 10, 20, 30, 40]
    assert trace.matrix(20, "head.weight").max() == 20.0
    assert trace.scalars().to_pydict() == {
        "step": [0, 10, 20, 30, 40, 30],
        "name": ["loss"] * 5 + ["validation"],
        "value": [1.0, 1 / 11, -1.0, 1 / 31, 1 / 41 + 0.5, 2.0],
    }


@pytest.mark.parametrize("table", ["metrics", "spectra", "neurons", "updates"])
def test_a_cell_of_any_table_supersedes_its_step(
    trace_path: Path, info: RunInfo, cell: MakeCell, table: str
) -> None:
    with TraceWriter(trace_path, info, start_step=20) as writer:
        if table == "metrics":
            writer.metrics(cell(20), {"status": "again"})
        elif table == "spectra":
            writer.spectrum(cell(20), np.ones(4), {})
        elif table == "neurons":
            writer.neurons(cell(20), np.ones(8))
        else:
            writer.update(cell(20), np.ones((8, 4), np.float32))
    trace = open_trace(trace_path)
    assert trace.steps("head.weight").tolist() == [0, 10, 30]
    assert trace.steps("blocks.0.up.weight", table=table)[-2:].tolist() == (
        [0, 20] if table == "updates" else [20, 30]
    )


def test_of_a_scalar_written_twice_the_newest_attempt_then_the_lowest_rank(
    tmp_path: Path, info: RunInfo
) -> None:
    for attempt in (0, 1):
        for rank in (0, 1):
            start = 5 * attempt if attempt else None
            with TraceWriter(
                tmp_path, info, rank=rank, start_step=start, attempt=attempt
            ) as writer:
                writer.scalar(7, "loss", 10.0 * attempt + rank)
                writer.scalar(6 - attempt, "loss", 5.0)
    assert open_trace(tmp_path).scalars("loss").to_pydict() == {
        "step": [5, 6, 7],
        "name": ["loss"] * 3,
        "value": [5.0, 5.0, 10.0],
    }
