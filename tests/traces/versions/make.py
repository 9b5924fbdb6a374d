"""Writes a trace that has one of everything: two ranks, an attempt that was killed, an analysis.

`python -m tests.traces.versions.make FOLDER` with the optgeom of the schema to keep; the folder is
then kept as it is, beside what its values are: the numbers below. A new schema adds what it brought
to `main`, and changes no number: schema 2 merged segments.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from optgeom.traces import Cell, LayerInfo, OptimizerInfo, RunInfo, TraceWriter, open_trace
from optgeom.traces.derived import write_derived
from optgeom.traces.keeping.compact import compact
from optgeom.traces.writing import sink

LAYERS = (
    LayerInfo("h.0.up", "mlp.up", 0, (6, 4), "float32", "muon", 0),
    LayerInfo("h.1.up", "mlp.up", 1, (6, 4), "bfloat16", "muon", 0),
)
COLUMNS = {
    "metrics": {"neuron_norm_cv": "float64", "zero_rows": "int64"},
    "spectra": {"condition_number": "float64"},
}
HALF = 3
FIRST, SECOND = range(6), range(4, 8)
SEAL_ROWS = 5


def number(step: int, block: int, place: int = 0) -> float:
    """What stands in a place of a cell; exact in bfloat16."""
    return float(step + 16 * block + place % 8) / 8


def matrix(step: int, block: int) -> np.ndarray:
    """The raw matrix of a cell, (6, 4) float32."""
    return np.array(
        [[number(step, block, row + col) for col in range(4)] for row in range(6)], "f4"
    )


def record(writer: TraceWriter, steps: range) -> None:
    """All tables of both layers; rows 3 to 5 by rank 1."""
    rank = writer.rank
    for step in steps:
        for layer in LAYERS:
            block = int(layer.block or 0)
            key = Cell(step, "muon", layer.name, layer.kind, block, "update")
            if rank == 0:
                values = {"neuron_norm_cv": number(step, block), "zero_rows": step}
                writer.metrics(key, {"lr": 0.5, "status": "ok", "source": "dispatch", **values})
                spectrum = np.array([number(step, block, at) for at in (3, 2, 1)], "f4")
                words = {"spectrum_status": "ok", "condition_number": number(step, block, 5)}
                writer.spectrum(key, spectrum, words)
            start, own = HALF * rank, matrix(step, block)[HALF * rank : HALF * (rank + 1)]
            writer.neurons(key, own[:, 0], row_start=start)
            if step % 2 == 0:
                raw = own if block == 0 else (own.view(np.uint32) >> 16).astype(np.uint16)
                writer.update(key, raw, dtype=layer.dtype, row_start=start)
        if rank == 0:
            writer.scalar(step, "loss", number(step, 0))
        writer.end_step(step)
        writer.flush()


def main(folder: Path) -> None:
    """Write it; this process ends without closing the second attempt."""
    run = folder.name
    sink.SEAL_ROWS = SEAL_ROWS
    groups = ({"lr": 0.5, "momentum": 0.95},)
    info = RunInfo(
        run,
        created="2026-11-27T00:00:00+00:00",
        versions={"optgeom": "kept"},
        command=("train.py",),
        world_size=2,
        optimizers=(OptimizerInfo("muon", "torch.optim.Muon", groups),),
        layers=LAYERS,
        columns=COLUMNS,
    )
    writers = [TraceWriter(folder, info, rank=rank) for rank in (0, 1)]
    for writer in writers:
        record(writer, FIRST)
        writer.close()
    compact(folder)
    trace = open_trace(folder)
    keys = ["run", "attempt", "step", "optimizer", "layer", "kind", "block", "stage"]
    table = trace.metrics().select(keys)
    found = [number(step, 2) for step in table.column("step").to_pylist()]
    write_derived(trace, "later", table.append_column("later_number", pa.array(found)))
    first = TraceWriter(folder, info, start_step=SECOND[0], flush_every=1e6)
    second = TraceWriter(folder, info, rank=1, start_step=SECOND[0], attempt=1, flush_every=1e6)
    for writer in (first, second):
        record(writer, SECOND)
        writer.flush()
    (folder / ".lock").unlink()  # it names this process
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
