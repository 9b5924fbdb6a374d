"""What is read of a segment leaves nothing of Arrow's behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow.parquet as pq

from optgeom.traces.store import open_trace


def files() -> int:
    gc.collect()
    return sum(isinstance(one, pq.ParquetFile) for one in gc.get_objects())


def test_no_file_of_arrow_outlives_its_reading(trace_path: Path) -> None:
    before = files()
    for _ in range(3):
        trace = open_trace(trace_path)
        trace.metrics()
        assert len(list(trace.matrices(stages="update", steps=20))) > 1
    assert files() <= before
