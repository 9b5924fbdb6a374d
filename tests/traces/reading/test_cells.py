"""Rows that the writer's thread makes itself, and when it wakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from optgeom.traces.info import RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.rows import CellRow

MakeCell = Callable[..., Cell]
NORMS = np.arange(8, dtype=np.float32)


def test_cells_are_made_on_the_prepared_thread(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    seen: list[tuple[str, str]] = []

    def note(what: str) -> None:
        seen.append((what, threading.current_thread().name))

    def make() -> list[CellRow]:
        note("made")
        values = {"status": "ok", "neuron_norm_cv": 0.5, "no_such_metric": 1.0}
        return [(cell(step), values, NORMS) for step in (0, 10)]

    with TraceWriter(tmp_path, info, prepare=lambda: note("prepared")) as writer:
        writer.cells(make, 2, 100)
        assert seen in ([], [("prepared", "optgeom-writer")])  # nothing is made before the flush
        writer.flush()
        assert seen == [("prepared", "optgeom-writer"), ("made", "optgeom-writer")]
    assert writer.dropped == {"metrics.no_such_metric": 2}
    trace = open_trace(tmp_path)
    assert trace.metrics().column("neuron_norm_cv").to_pylist() == [0.5, 0.5]
    np.testing.assert_array_equal(trace.neuron_norms(10, cell(0).layer), NORMS)


def test_cells_that_find_the_writer_closed_are_counted_and_not_made(
    tmp_path: Path, info: RunInfo
) -> None:
    writer = TraceWriter(tmp_path, info)
    writer.close()

    def make() -> list[CellRow]:
        raise AssertionError("nobody asked")

    writer.cells(make, 2, 100)
    assert writer.dropped == {"metrics": 2}


def test_rows_wait_for_the_flush_and_no_longer(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    with TraceWriter(tmp_path, info, flush_every=0.5) as writer:
        writer.cells(lambda: [(cell(0), {"status": "ok"}, NORMS)], 1, 100)
        until = time.monotonic() + 30
        while not open_trace(tmp_path).metrics().num_rows:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_queue_that_fills_is_taken_before_the_flush(
    tmp_path: Path, info: RunInfo, cell: MakeCell
) -> None:
    made = threading.Event()

    def make() -> list[CellRow]:
        made.set()
        return [(cell(0), {"status": "ok"}, NORMS)]

    with TraceWriter(tmp_path, info, flush_every=3600.0, queue_bytes=1000) as writer:
        writer.cells(make, 1, 600)
        assert made.wait(30)
