"""The data of a figure as a table, and the figure in words."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from optgeom.figures import (
    layer_grid,
    losses,
    neuron_map,
    over_steps,
    pairs,
    sorted_norms,
    spectra,
    spectrum_map,
)
from optgeom.figures.extremes import extremes, table
from optgeom.figures.names import TIMES
from optgeom.traces.store import Traces, open_trace, open_traces

UP = "blocks.1.mlp.up.weight"
HOSTILE = "<b>bold</b>,\"quoted\" & 'x'"
INFOS: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
    "sorted_norms": (sorted_norms, lambda t, layer: sorted_norms.info(t, layer)),
    "spectra": (spectra, lambda t, layer: spectra.info(t, layer)),
    "neuron_map": (neuron_map, lambda t, layer: neuron_map.info(t, layer)),
    "spectrum_map": (spectrum_map, lambda t, layer: spectrum_map.info(t, layer)),
    "layer_grid": (layer_grid, lambda t, layer: layer_grid.info(t, "neuron_norm_cv")),
    "over_steps": (over_steps, lambda t, layer: over_steps.info(t, layer, "neuron_norm_cv")),
    "pairs": (pairs, lambda t, layer: pairs.info(t)),
    "losses": (losses, lambda t, layer: losses.info(t)),
}
each = pytest.mark.parametrize("name", INFOS)


@pytest.fixture(scope="module")
def hostile(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("said") / "<i>run<i>"
    fake.write_run(out, "muon", blocks=1, width=4, names=(HOSTILE,))
    return out


@each
def test_names_in_tables_are_as_recorded(hostile: Path, name: str) -> None:
    module, info = INFOS[name]
    found = module.table(info(open_trace(hostile), HOSTILE))
    assert found.num_rows
    assert set(found.column("run").to_pylist()) == {"<i>run<i>"}
    if "layer" in found.column_names:
        assert HOSTILE in found.column("layer").to_pylist()
    written = io.BytesIO()
    pyarrow.csv.write_csv(found, written)
    read = pyarrow.csv.read_csv(io.BytesIO(written.getvalue()))
    assert read.column_names == found.column_names
    assert read.num_rows == found.num_rows


@each
def test_words_are_sentences_that_name_the_run(traces: Traces, name: str) -> None:
    module, info = INFOS[name]
    said = module.words(info(traces["muon"], UP))
    assert said.endswith(".")
    assert "Muon" in said
    assert "nan" not in said.lower().split()


@each
def test_a_table_of_nothing_has_its_columns(fake: ModuleType, tmp_path: Path, name: str) -> None:
    fake.write_run(
        tmp_path / "bare", "muon", blocks=1, width=4, stages=("gradient",), spectra=False
    )
    trace = open_trace(tmp_path / "bare")
    layer = trace.layers[0].name
    module, info = INFOS[name]
    what = losses.info(trace, name="accuracy") if name == "losses" else info(trace, layer)
    found = module.table(what)
    assert found.num_rows == 0
    assert "run" in found.column_names
    said = module.words(what)
    assert said.startswith("bare ")
    assert "no scalar called accuracy" in said or "holds no" in said


def test_sorted_norms_in_numbers_and_words(traces: Traces) -> None:
    what = sorted_norms.info([traces["muon"], traces["normuon"]], UP, step=20)
    found = sorted_norms.table(what)
    rows = [row for row in found.to_pylist() if row["run"] == "normuon"]
    captured = [row for row in rows if row["curve"] == "captured"]
    norms = traces["normuon"].neuron_norms(20, UP).astype(np.float64)
    assert [row["norm / mean"] for row in captured] == np.sort(norms / norms.mean()).tolist()
    assert all(norms[row["neuron"]] / norms.mean() == row["norm / mean"] for row in captured)
    assert {row["curve"] for row in rows} == {"captured", "exact orthogonalization"}
    said = sorted_norms.words(what)
    assert said.startswith("Sorted neuron norms of block 1 · mlp.up at step 20: Muon from 0.")
    assert " times the mean, NorMuon from " in said


def test_words_say_which_step_each_run_is_of(fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "muon", "muon", steps=(0, 10), blocks=1, width=4)
    fake.write_run(tmp_path / "normuon", "normuon", steps=(0, 15), blocks=1, width=4)
    folder = open_traces(tmp_path)
    layer = folder["muon"].layers[0].name
    said = sorted_norms.words(sorted_norms.info(folder, layer, step=15))
    assert "Muon at step 10 from" in said
    assert "NorMuon at step 15 from" in said
    assert "at step 12" not in spectra.words(spectra.info(folder, layer, step=12))


def test_words_name_any_stage_but_the_update(traces: Traces) -> None:
    trace = traces["muon"]
    for said in (
        sorted_norms.words(sorted_norms.info(trace, UP, stage="gradient")),
        neuron_map.words(neuron_map.info(trace, UP, stage="gradient")),
        over_steps.words(over_steps.info(trace, UP, "stable_rank", stage="gradient")),
    ):
        assert "block 1 · mlp.up (gradient)" in said
    assert "(gradient) of 12 layers" in layer_grid.words(
        layer_grid.info(trace, "stable_rank", stage="gradient")
    )


def test_spectra_in_numbers(traces: Traces) -> None:
    what = spectra.info(traces["muon"], UP, step=40)
    found = spectra.table(what)
    assert found.column("stage").to_pylist() == ["update"] * 16 + ["momentum"] * 16
    values = traces["muon"].spectrum(40, UP)
    assert found.column("sigma_i / sigma_1").to_pylist()[:16] == (values / values[0]).tolist()
    assert spectra.words(what).startswith("Singular values of block 1 · mlp.up over the largest")


def test_metric_over_steps_in_numbers_and_words(traces: Traces) -> None:
    what = over_steps.info(traces["muon"], UP, "condition_number", span=(10, 30))
    found = over_steps.table(what).to_pylist()
    rows = traces["muon"].metrics(layers=[UP], stages=["update"]).to_pylist()
    expected = {row["step"]: row["condition_number"] for row in rows if 10 <= row["step"] <= 30}
    assert {row["step"]: row["condition_number"] for row in found} == expected
    assert not any(row["is a lower bound"] for row in found)
    said = over_steps.words(what)
    assert said.startswith("Condition number of block 1 · mlp.up over steps. Muon: from 1.")
    assert "at step 10 to" in said
    assert "at step 30, between" in said


def test_captured_steps_without_a_number_are_counted(broken: ModuleType, tmp_path: Path) -> None:
    trace = open_trace(broken.train(tmp_path / "wreck", "non_finite", start=4))
    what = over_steps.info(trace, broken.LAYER, "neuron_norm_cv")
    assert over_steps.words(what).endswith(", 2 captured steps without a number.")
    values = over_steps.table(what).column("neuron_norm_cv").to_pylist()
    assert [value is None for value in values] == [False] * 4 + [True] * 2
    norms = sorted_norms.words(sorted_norms.info(trace, broken.LAYER))
    assert norms == "wreck diverged: the update is not finite at step 5."
    assert "not finite from step 4" in losses.words(losses.info(trace))


def test_a_bound_is_said_and_marked(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, width=4, steps=(0,), close=False)
    layer = writer.info.layers[0]
    key = fake.Cell(5, "optimizer", layer.name, layer.kind, layer.block, "update")
    held = {"condition_number": 2e6, "spectrum_status": "at_floor"}
    writer.spectrum(key, np.array([1.0, 1e-7], dtype=np.float32), held)
    writer.close()
    what = over_steps.info(open_trace(tmp_path / "x"), layer.name, "condition_number")
    assert over_steps.table(what).column("is a lower bound").to_pylist() == [False, True]
    assert "to \N{GREATER-THAN OR EQUAL TO} 2e6 at step 5" in over_steps.words(what)


def test_pairs_in_numbers_and_words(traces: Traces) -> None:
    what = pairs.info([traces["muon"], traces["normuon"]], step=25)
    found = pairs.table(what)
    assert found.num_rows == 24
    assert set(found.column("step").to_pylist()) == {20}
    rows = traces["normuon"].metrics(steps=[20], stages=["update"]).to_pylist()
    expected = {row["layer"]: row["neuron_norm_cv"] for row in rows}
    for row in found.to_pylist():
        if row["run"] == "normuon":
            assert row["neuron_norm_cv"] == expected[row["layer"]]
    said = pairs.words(what)
    assert "NorMuon at step 20: median 0.0" in said
    assert "They differ most in block " in said


def test_losses_in_numbers_and_words(traces: Traces) -> None:
    what = losses.info(traces["muon"], against="time")
    found = losses.table(what)
    assert found.column_names == ["run", "step", "time (s)", "loss"]
    logged = traces["muon"].scalars("loss").column("value").to_pylist()
    assert found.column("loss").to_pylist() == logged
    assert losses.words(what).startswith("Loss by time (s). Muon: from ")
    zoomed = losses.info(traces["muon"], span=(10, 12))
    assert losses.table(zoomed).column("step").to_pylist() == [10, 11, 12]


def test_maps_in_numbers_and_words(traces: Traces) -> None:
    what = neuron_map.info(traces["muon"], UP, span=(10, 30))
    found = neuron_map.table(what)
    assert sorted(set(found.column("step").to_pylist())) == [10, 20, 30]
    assert found.num_rows == 3 * 64
    for row in found.to_pylist()[::17]:
        norms = traces["muon"].neuron_norms(row["step"], UP).astype(np.float64)
        assert row["norm / mean"] == pytest.approx(norms[row["neuron"]] / norms.mean(), rel=1e-12)
    said = neuron_map.words(what)
    lowest = min(found.to_pylist(), key=lambda row: row["norm / mean"])
    assert f"(neuron {lowest['neuron']}, step {lowest['step']})" in said
    grid = layer_grid.info(traces["muon"], "neuron_norm_cv")
    table_of = layer_grid.table(grid)
    assert table_of.num_rows == 12 * 5
    highest = max(table_of.to_pylist(), key=lambda row: row["neuron_norm_cv"])
    assert f", step {highest['step']})." in layer_grid.words(grid)
    assert TIMES in layer_grid.words(grid)
    map_of = spectrum_map.table(spectrum_map.info(traces["muon"], UP))
    assert map_of.num_rows == 16 * 5
    values = traces["muon"].spectrum(40, UP)
    last = [row["sigma_i / sigma_1"] for row in map_of.to_pylist() if row["step"] == 40]
    assert last == (values / values[0]).tolist()


def test_extreme_neurons_as_a_table(traces: Traces) -> None:
    what = extremes(traces["muon"], UP, 25, count=3)
    found = table(what, run="muon", layer=UP, stage="update")
    assert found.column("moves").to_pylist() == ["dominant"] * 3 + ["dormant"] * 3
    assert found.column("step").to_pylist() == [20] * 6
    nothing = table(extremes(traces["muon"], UP, -1), run="muon", layer=UP, stage="update")
    assert nothing.num_rows == 0
    assert nothing.schema.field("neuron").type == pa.int64()
