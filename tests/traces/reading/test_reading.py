"""What reading a trace takes: no heavy import, and any Parquet reader will do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet


def test_reading_imports_neither_torch_nor_dataset(trace_path: Path) -> None:
    code = (
        "import sys; from optgeom.traces import open_trace;"
        f"t = open_trace({str(trace_path)!r}); t.metrics(steps=10); t.matrix(0, 'head.weight');"
        "t.neurons('head.weight'); t.spectra('head.weight'); t.scalars();"
        "print([m for m in ('torch', 'pyarrow.dataset', 'dash') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_need_no_pandas(trace_path: Path) -> None:
    code = (
        "import sys; from optgeom.traces import open_trace;"
        f"t = open_trace({str(trace_path)!r}); t.grid('neuron_norm_cv'); t.words('status');"
        "t.grid('condition_number', 'momentum'); t.neurons('head.weight'); t.last_step;"
        "t.spectra('head.weight'); t.scalars('loss'); t.steps('head.weight'); t.stages;"
        "print([m for m in ('pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_any_parquet_reader_reads_the_tables(trace_path: Path) -> None:
    (path,) = (trace_path / "metrics").glob("*.parquet")
    assert pyarrow.parquet.read_table(path, partitioning=None).num_rows == 24
