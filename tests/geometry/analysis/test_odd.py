"""What traces hold beside the usual: resumed runs, odd matrices, operands of low precision."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import optgeom
from optgeom.geometry import columns
from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter
from optgeom.traces.errors import OptgeomError
from tests.geometry.analysis.cases import UP, Matrices, row_of, write

WIDE = LayerInfo("wide", "mlp.down", 0, (256, 512), "float32", "opt", 0, "muon")


def _info(folder: Path, *layers: LayerInfo) -> RunInfo:
    declared = {table: columns(table) for table in ("metrics", "spectra")}
    return RunInfo(folder.name, layers=layers, columns=declared)


def _cell(layer: LayerInfo, step: int, stage: str = "update") -> Cell:
    return Cell(step, "opt", layer.name, layer.kind, layer.block, stage)


def _resumed(folder: Path, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Attempt 0 has steps 0 to 300, attempt 1 went on from 250; both have raw matrices alone."""
    matrices = {}
    for start, steps in ((None, (0, 100, 200, 300)), (250, (350,))):
        with TraceWriter(folder, _info(folder, UP), start_step=start) as writer:
            for step in steps:
                matrices[step] = rng.standard_normal(UP.shape).astype(np.float32)
                writer.update(_cell(UP, step), matrices[step])
    return matrices


def test_each_step_is_of_the_attempt_that_has_it(tmp_path: Path, rng: np.random.Generator) -> None:
    matrices = _resumed(tmp_path / "run", rng)
    trace = optgeom.open_trace(tmp_path / "run")
    assert optgeom.analyze(trace).num_rows == 5
    rows = {row["step"]: row for row in trace.metrics().to_pylist()}
    assert {step: row["attempt"] for step, row in rows.items()} == {
        0: 0, 100: 0, 200: 0, 300: 0, 350: 1,
    }  # fmt: skip
    assert all(row["condition_number"] is not None for row in rows.values())
    assert optgeom.analyze(trace).num_rows == 0
    # 300 was left behind: the run went on from 250, and 200 is the update before
    assert rows[350]["steps_since_previous"] is None
    assert rows[300]["steps_since_previous"] == 100
    assert rows[300]["cosine_previous"] == pytest.approx(
        float(
            np.vdot(matrices[300], matrices[200])
            / np.linalg.norm(matrices[300])
            / np.linalg.norm(matrices[200])
        ),
        abs=1e-6,
    )


def test_a_second_moment_has_norms_and_no_spectrum(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "run"
    with TraceWriter(folder, _info(folder, UP)) as writer:
        writer.update(_cell(UP, 0, "second_moment"), rng.random((12, 1)).astype(np.float32))
    trace = optgeom.open_trace(folder)
    optgeom.analyze(trace)
    row = row_of(trace, 0, UP.name, "second_moment")
    assert row["neuron_norm_cv"] is not None
    assert row.get("condition_number") is None


def test_one_odd_matrix_costs_its_own_layer_and_step(tmp_path: Path, matrices: Matrices) -> None:
    odd = {
        key: matrix.T if key == (100, UP.name, "gradient") else matrix
        for key, matrix in matrices.items()
    }
    trace = write(tmp_path / "run", odd)
    with pytest.raises(OptgeomError, match=rf"5 of 30 cells.*{UP.name} at step 100: .*has shape"):
        optgeom.analyze(trace)
    rows = trace.metrics().to_pylist()
    missing = {(row["step"], row["layer"]) for row in rows if row["analysis_version"] is None}
    assert missing == {(100, UP.name)}


def test_a_rank_that_stopped_before_the_others_is_told(tmp_path: Path, matrices: Matrices) -> None:
    """Of the last matrix its rows were not written, so that nothing but the shape misses them."""
    folder = tmp_path / "run"
    whole = matrices[0, UP.name, "update"]
    with TraceWriter(folder, _info(folder, UP)) as writer:
        for step, rows in ((0, 12), (100, 7)):
            writer.update(_cell(UP, step), whole[:7].copy())
            if rows == 12:
                writer.update(_cell(UP, step), whole[7:].copy(), row_start=7)
    trace = optgeom.open_trace(folder)
    with pytest.raises(
        OptgeomError, match=rf"1 of 2 cells.*{UP.name} update at step 100 is incomp"
    ):
        optgeom.analyze(trace)
    assert trace.metrics().to_pylist()[0]["step"] == 0
    assert {row["step"] for row in trace.metrics().to_pylist() if row["update_rms"]} == {0}


def test_an_empty_matrix_is_named(tmp_path: Path) -> None:
    folder, empty = tmp_path / "run", LayerInfo("none", "other", None, (0, 4), "float32", "opt", 0)
    with TraceWriter(folder, _info(folder, empty)) as writer:
        writer.update(_cell(empty, 0), np.zeros((0, 4), np.float32))
    with pytest.raises(OptgeomError, match=r"1 of 1 cells could not be measured: none at step 0"):
        optgeom.analyze(optgeom.open_trace(folder))


def test_what_run_json_does_not_name_is_told(
    tmp_path: Path, matrices: Matrices, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with TraceWriter(folder, _info(folder, UP)) as writer:
        for layer in (UP, WIDE):
            writer.update(_cell(layer, 0), np.ones(layer.shape, np.float32))
    with caplog.at_level(logging.WARNING):
        assert optgeom.analyze(optgeom.open_trace(folder)).num_rows == 1
    assert "left out, for run.json names no layer wide" in caplog.text


def test_a_damaged_companion_costs_what_needs_it(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    weight = matrices[0, UP.name, "weight"].tobytes()
    folder = tmp_path / "run" / "updates"
    for file in folder.glob("*.parquet"):
        data = bytearray(file.read_bytes())
        if weight in data:
            data[data.index(weight)] ^= 1
            file.write_bytes(data)
    trace = optgeom.open_trace(tmp_path / "run")
    with pytest.raises(OptgeomError, match="2 of 30 cells"):
        optgeom.analyze(trace)
    rows = trace.metrics(steps=0, layers=UP.name).to_pylist()
    missing = {row["stage"] for row in rows if row["analysis_version"] is None}
    assert missing == {"update", "weight"}


def test_what_another_has_analyzed_is_seen(tmp_path: Path, matrices: Matrices) -> None:
    write(tmp_path / "run", matrices)
    first, second = (optgeom.open_trace(tmp_path / "run") for _ in range(2))
    assert optgeom.analyze(first).num_rows == 30
    assert optgeom.analyze(second).num_rows == 0


def _growing(folder: Path, matrices: list[np.ndarray]) -> Trace:
    with TraceWriter(folder, _info(folder, WIDE)) as writer:
        for step, matrix in enumerate(matrices):
            writer.update(_cell(WIDE, step), matrix)
            writer.end_step(step)
    return optgeom.open_trace(folder)


def test_float32_products_do_not_depend_on_when_it_is_asked(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    left, _, right = np.linalg.svd(rng.standard_normal(WIDE.shape), full_matrices=False)
    flat = (left * np.linspace(2.0, 1.0, 256) @ right).astype(np.float32)
    steep = (left * np.geomspace(1.0, 0.01, 256) @ right).astype(np.float32)
    matrices = [flat, flat, steep, flat, flat, flat]
    once = _growing(tmp_path / "once", matrices)
    optgeom.analyze(once)
    methods = once.metrics()["spectrum_method"].to_pylist()
    # tried where the step before was flat, and kept where this one is
    assert methods == ["gram", "gram32", "gram", "gram", "gram32", "gram32"]
    found = once.metrics()["condition_number"].to_pylist()
    assert found == pytest.approx([2.0, 2.0, 100.0, 2.0, 2.0, 2.0], rel=1e-5)
    twice = _growing(tmp_path / "twice", matrices[:5])
    optgeom.analyze(twice)
    with TraceWriter(tmp_path / "twice", _info(tmp_path / "twice", WIDE), start_step=5) as writer:
        writer.update(_cell(WIDE, 5), matrices[5])
    twice = optgeom.open_trace(tmp_path / "twice")
    optgeom.analyze(twice)
    columns_of = ["step", "spectrum_method", "condition_number", "noise_floor"]
    assert twice.metrics().select(columns_of).equals(once.metrics().select(columns_of))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_floors_are_those_of_the_capture(tmp_path: Path, dtype: torch.dtype) -> None:
    """An operand may be less precise than the weights, and stages may be more so."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 60, bias=False)
    optimizer = optgeom.optim.Muon(layer.parameters(), lr=0.02)
    watched = ("gradient", "momentum", "ns_input", "update")
    layer.to(dtype)
    with optgeom.watch(
        layer, optimizer, tmp_path / "run", every=1, updates_every=1, stages=watched, budget=None
    ):
        for _ in range(3):
            layer.weight.grad = torch.randn(60, 40).to(dtype)
            optimizer.step()
    names = ["spectrum_status", "noise_floor", "condition_number", "leverage_rank"]
    in_flight = optgeom.open_trace(tmp_path / "run").metrics().select(names).to_pydict()
    for file in (tmp_path / "run" / "spectra").iterdir():
        file.unlink()
    trace = optgeom.open_trace(tmp_path / "run")
    optgeom.analyze(trace)
    analyzed = trace.metrics().select(names).to_pydict()
    assert analyzed["spectrum_status"] == in_flight["spectrum_status"]
    assert analyzed["leverage_rank"] == in_flight["leverage_rank"]
    for name in ("noise_floor", "condition_number"):
        assert analyzed[name] == pytest.approx(in_flight[name], rel=1e-6)
