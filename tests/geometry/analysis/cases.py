"""Traces of small raw matrices, with whatever a test says was recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from optgeom.geometry import columns
from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter, open_trace

UP = LayerInfo("blocks.0.up", "mlp.up", 0, (12, 5), "float32", "opt", 0, "muon")
GATE = LayerInfo("gate", "other", None, (1, 6), "bfloat16", "opt", 0, "muon")
LAYERS = (UP, GATE)
STEPS = (0, 100, 200)
STAGES = ("gradient", "ns_input", "orthogonalized", "update", "weight")

Matrices = Mapping[tuple[int, str, str], np.ndarray]
Recorded = Callable[[Cell, np.ndarray], tuple[dict | None, dict | None]]


def nothing(key: Cell, matrix: np.ndarray) -> tuple[dict | None, dict | None]:
    return {}, None


def write(
    folder: Path, matrices: Matrices, recorded: Recorded = nothing, raw: bool = True
) -> Trace:
    """A trace of raw matrices; `recorded` gives the rows of metrics and spectra of each cell."""
    declared = {table: columns(table) for table in ("metrics", "spectra")}
    info = RunInfo(folder.name, layers=LAYERS, columns=declared)
    with TraceWriter(folder, info) as writer:
        for (step, name, stage), matrix in matrices.items():
            layer = next(one for one in LAYERS if one.name == name)
            key = Cell(step, "opt", layer.name, layer.kind, layer.block, stage)
            norms, spectrum = recorded(key, matrix)
            if norms is not None:
                writer.metrics(key, {"lr": 0.1, "source": "dispatch"} | norms)
            if spectrum is not None:
                writer.spectrum(key, None, spectrum)
            if raw:
                writer.update(key, matrix)
            writer.end_step(step)
    assert writer.failure is None
    return open_trace(folder)


def row_of(trace: Trace, step: int, layer: str, stage: str) -> dict:
    (row,) = trace.metrics(steps=step, layers=layer, stages=stage).to_pylist()
    return row
