"""A trace with all that a trace can hold: three attempts, two ranks, blocks, odd numbers, analyses.

`python -m tests.traces.everything FOLDER` writes one and goes on writing until it is killed.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter, open_trace
from optgeom.traces.derived import write_derived
from optgeom.traces.writing import sink

UP = LayerInfo("blocks.0.up.weight", "mlp.up", 0, (8, 4), "float32", "muon", 0)
DOWN = LayerInfo("blocks.0.down.weight", "mlp.down", 0, (4, 8), "bfloat16", "muon", 0)
PIECE = LayerInfo("Gewöhnung.名前[q]", "attention.q", 1, (6, 4), "float16", "muon", 0)
HEAD = LayerInfo('=head,"x"', "head", None, (6, 4), "float64", "adam", 0)
LAYERS = (UP, DOWN, PIECE, HEAD)
STAGES = ("momentum", "second_moment", "update")
FIRST = {
    "metrics": {"neuron_norm_cv": "float64", "count": "int64"},
    "spectra": {"condition_number": "float64"},
}
LATER = {
    "metrics": {**FIRST["metrics"], "flag": "bool", "word": "string", "x2": "float32"},
    "spectra": {**FIRST["spectra"], "resolved_rank": "int32"},
}
ODD = (0.1, None, np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e300)
SEAL_ROWS = 30


def matrix(layer: LayerInfo, step: int, attempt: int) -> np.ndarray:
    """A raw matrix; exact in bfloat16."""
    values = np.arange(layer.shape[0] * layer.shape[1]) % 7 - 3 + step % 5 + 8 * attempt
    return (values / 8).reshape(layer.shape)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """As the writer takes it."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(values, dtype)
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def block_of(layer: LayerInfo, rank: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """What a rank holds: half of the columns of DOWN, half of the rows of others."""
    rows, cols = shape
    if layer is DOWN and cols > 1:
        return slice(0, rows), slice(rank * cols // 2, (rank + 1) * cols // 2)
    return slice(rank * rows // 2, (rank + 1) * rows // 2), slice(0, cols)


def record(writer: TraceWriter, step: int, *, only: str = "") -> None:
    """All tables of one step, from one rank; or one table."""
    rank, attempt = writer.rank, writer.attempt
    for place, (layer, stage) in enumerate(itertools.product(LAYERS, STAGES)):
        key = Cell(step, layer.optimizer, layer.name, layer.kind, layer.block, stage)
        whole = matrix(layer, step, attempt)
        if stage == "second_moment":
            whole = whole[:, :1]
        rows, cols = block_of(layer, rank, whole.shape)
        own = whole[rows, cols]
        at = {"row_start": rows.start, "col_start": cols.start}
        if rank == 0 and not only:
            odd = ODD[(step + place) % len(ODD)]
            values = {
                "neuron_norm_cv": odd,
                "count": None if step % 4 == 1 else step,
                "lr": 0.1,
                "status": "ok",
            }
            spectrum = np.arange(min(whole.shape), 0, -1) / (1 + step) if place % 5 else None
            scalars: dict[str, object] = {"condition_number": odd}
            if attempt:
                values |= {"flag": step % 2 == 0, "word": None if step % 3 else "é,\n", "x2": 0.1}
                scalars["resolved_rank"] = place
            for _ in range(1 + (step == 3)):  # step 3 is written twice
                writer.metrics(key, values)
                writer.spectrum(key, spectrum if step != 5 else np.empty(0), scalars)
                values = {**values, "count": -1}
        if rank == 0 or step != 2:  # of step 2 rank 1 has nothing
            norms = np.sqrt((own**2).sum(1))
            writer.neurons(key, norms, cols=cols.stop - cols.start, **at)
            if step % 2 == 0 and not only:
                writer.update(key, stored(own, layer.dtype), dtype=layer.dtype, **at)
    if not only:
        writer.scalar(step, "loss", 1 / (1 + step) + attempt + 10 * rank)
        if step % 2 == 0:
            writer.scalar(step, f"of rank {rank}", float(step))
    writer.end_step(step)
    writer.flush()


def analyse(folder: Path) -> None:
    """Two analyses; of one, two segments have the same cells."""
    trace = open_trace(folder)
    table = trace.metrics(attempts="all")
    keys = table.select(["run", "attempt", "step", "optimizer", "layer", "kind", "block", "stage"])
    steps = np.array(keys.column("step").to_pylist(), float)
    own = pa.array(np.where(steps % 3 == 0, None, steps), pa.float64())
    write_derived(
        trace,
        "later",
        keys.append_column("neuron_norm_cv", pa.array(steps)).append_column("y", own),
    )
    some = keys.slice(0, keys.num_rows // 2)
    again = pa.array([None if one % 2 else -one for one in steps[: some.num_rows]], pa.float64())
    write_derived(trace, "later", some.append_column("y", again))
    write_derived(trace, "another", some.append_column("y", pa.array(steps[: some.num_rows] + 0.5)))
    words = pa.array([f"w{one % 3}" for one in range(some.num_rows)])
    write_derived(trace, "another", some.append_column("said", words))


def write_everything(folder: Path, *, analysed: bool = True) -> tuple[TraceWriter, TraceWriter]:
    """Two attempts of two ranks, closed, and a third whose streams are still open: close it."""
    info = RunInfo("all", layers=LAYERS, columns=FIRST, world_size=2)
    later = RunInfo("all", layers=LAYERS, columns=LATER, world_size=2)
    with patch.object(sink, "SEAL_ROWS", SEAL_ROWS):
        for known, steps, start in ((info, range(10), None), (later, range(6, 15), 6)):
            first = TraceWriter(folder, known, start_step=start)
            second = TraceWriter(
                folder, known, rank=1, start_step=start, attempt=first.attempt if start else None
            )
            for writer in (first, second):
                for step in steps:
                    # attempt 1 has norms alone of step 7, which hides all of attempt 0 there
                    record(writer, step, only="neurons" if start and step == 7 else "")
                writer.close()
                assert writer.failure is None
                assert not writer.dropped
        if analysed:
            analyse(folder)
        third = TraceWriter(folder, later, start_step=13)
        fourth = TraceWriter(folder, later, rank=1, start_step=13, attempt=2)
        for writer in (third, fourth):
            for step in range(13, 17):
                record(writer, step)
    return third, fourth


def main(folder: Path) -> None:
    """Write until killed."""
    third, fourth = write_everything(folder)
    for step in itertools.count(17):
        record(third, step)
        record(fourth, step)
        if step == 20:
            sys.stdout.write("under way\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
