"""Traces of many small segments, and what they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter
from optgeom.traces.errors import NotCaptured
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.schema import CELL_TABLES, TABLES

WIDE = LayerInfo("wide", "mlp.up", 0, (2000, 500), "float32", "o", 0)


def parts(path: Path) -> dict[str, list[PartName]]:
    """What each table consists of."""
    found = {}
    for table in TABLES:
        names = map(parse_name, os.listdir(path / table)) if (path / table).is_dir() else ()
        found[table] = sorted(one for one in names if one is not None)
    return found


def everything(trace: Trace) -> dict[str, Any]:
    """All that a trace holds, to the bit: NaN and null apart, and of every attempt."""
    found: dict[str, Any] = {
        "newest": repr(trace.metrics().to_pylist()),
        "all": repr(trace.metrics(attempts="all").to_pylist()),
        "scalars": repr(trace.scalars().to_pylist()),
    }
    for table in CELL_TABLES:
        found[f"repeated {table}"] = trace.index(table).repeated()
    for layer, stage in sorted(trace.cell_names("updates")):
        for step in trace.steps(layer, stage, "updates").tolist():
            try:
                found[f"matrix {step} {layer} {stage}"] = trace.matrix(step, layer, stage).tobytes()
            except NotCaptured as error:  # a rank lacks it
                found[f"matrix {step} {layer} {stage}"] = str(error)
    for stage in trace.stages:
        for column in ("neuron_norm_cv", "lr", "condition_number"):
            found[f"{column} {stage}"] = trace.grid(column, stage).values.tobytes()
        words = trace.words("status", stage)
        found[f"status {stage}"] = words.words, words.codes.tobytes()
        for layer in trace.layers:
            steps, norms = trace.neurons(layer.name, stage)
            found[f"neurons {layer.name} {stage}"] = steps.tolist(), norms.tobytes()
            steps, spectra = trace.spectra(layer.name, stage)
            arrays = [one.tobytes() for one in spectra]
            found[f"spectra {layer.name} {stage}"] = steps.tolist(), arrays
    return found


def age(path: Path) -> None:
    """As if nobody had written to it for long."""
    for one in [path, *path.rglob("*")]:
        os.utime(one, (1e9, 1e9))


def written(path: Path, steps: range, **settings: Any) -> TraceWriter:
    """A writer that has recorded a cell with everything for each step."""
    info = RunInfo("run", layers=(WIDE,), columns={"metrics": {"x": "float64"}})
    writer = TraceWriter(path, info, flush_every=1e6, **settings)
    for step in steps:
        go_on(writer, step)
    return writer


def go_on(writer: TraceWriter, step: int) -> None:
    key = Cell(step, "o", "wide", "mlp.up", 0, "update")
    writer.metrics(key, {"x": float(step), "status": "ok"})
    writer.spectrum(key, np.arange(500, 0, -1) + step, {})
    writer.neurons(key, np.full(2000, step))
    writer.update(key, np.full((4, 4), step, np.float32))
    writer.scalar(step, "loss", float(step))
    writer.end_step(step)
    writer.flush()


def as_of_schema_1(path: Path) -> None:
    content = json.loads((path / "run.json").read_bytes())
    del content["digest"]
    (path / "run.json").write_text(json.dumps({**content, "schema": 1}))


def assert_whole(trace: Trace, steps: range) -> None:
    """All that `written` has recorded is there once."""
    there = [*steps]
    assert trace.metrics(attempts="all").column("step").to_pylist() == there
    assert trace.grid("x").values[:, 0].tolist() == there
    assert [one[-1] - 1 for one in trace.spectra("wide")[1]] == there
    assert trace.neurons("wide")[1][:, -1].tolist() == there
    assert [int(one[0, 0]) for _, one in matrices(trace)] == there
    assert trace.scalars("loss").column("value").to_pylist() == there
    for table in ("metrics", "spectra", "neurons", "updates"):
        assert trace.index(table).repeated() == 0


def matrices(trace: Trace) -> list[tuple[int, np.ndarray]]:
    """Blocks of four rows, of a layer that has more."""
    index = trace.index("updates")
    found = []
    for part in index.parts:
        rows = part.read_rows([*range(part.keys.rows)], ["values"])  # type: ignore[attr-defined]
        for row, table in rows:
            values = np.frombuffer(table.column("values")[0].as_py(), np.float32)
            found.append((int(part.keys["step"][row]), values.reshape(4, 4)))
    return sorted(found, key=lambda one: one[0])
