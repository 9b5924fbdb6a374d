"""Runs that diverged, stood still or had no learning rate: said in words, the rest still drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from optgeom import figures
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
from optgeom.figures.theme import LIGHT
from optgeom.traces.errors import OptgeomError
from optgeom.traces.store import Traces, open_trace, open_traces

WORDS = {"non_finite": "not finite", "zero": "zero", "lr_zero": "zero"}
UP = "blocks.1.mlp.up.weight"


@pytest.fixture(scope="module")
def folder(broken: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("broken")
    broken.train(made / "healthy")
    for fault in WORDS:
        broken.train(made / fault, fault)
        broken.train(made / f"all_{fault}", fault, start=0)
    return made


@pytest.fixture(scope="module")
def wrecks(folder: Path) -> Traces:
    return open_traces(folder)


def _notes(figure: go.Figure) -> str:
    return " ".join(str(one.text) for one in figure.layout.annotations).replace("<br>", " ")


@pytest.mark.parametrize("fault", ["non_finite", "zero"])
def test_a_null_spectrum_is_said_and_the_other_run_is_drawn(
    wrecks: Traces, broken: ModuleType, fault: str
) -> None:
    what = spectra.info([wrecks["healthy"], wrecks[fault]], broken.LAYER)
    assert {curve.run for curve in what.curves} == {"healthy"}
    missing = what.missing[0]
    assert missing.run == fault
    assert missing.brief == f"{WORDS[fault]} at step 5"
    assert missing.what.endswith(f"the update is {WORDS[fault]} at step 5.")
    assert ("diverged" in missing.what) == (fault == "non_finite")
    alone = figures.spectrum(wrecks[fault], broken.LAYER)
    assert f"{WORDS[fault]} at step 5" in _notes(alone)
    assert spectra.info(wrecks[fault], broken.LAYER, step=4).missing == ()


def test_a_null_momentum_is_named_as_such(wrecks: Traces, broken: ModuleType) -> None:
    missing = spectra.info(wrecks["non_finite"], broken.LAYER).missing
    assert [one.brief for one in missing] == [
        "not finite at step 5",
        "momentum not finite at step 5",
    ]


@pytest.mark.parametrize("status", ["lost", "not_converged"])
def test_a_spectrum_that_is_lost_or_did_not_converge(
    fake: ModuleType, tmp_path: Path, status: str
) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", stages=("update",), steps=(0,), close=False)
    key = fake.Cell(5, "optimizer", UP, "mlp.up", 1, "update")
    writer.metrics(key, {"neuron_norm_cv": 0.4, "frobenius_norm": 1.0, "status": "ok"})
    writer.spectrum(key, None, {"spectrum_status": status})
    writer.close()
    trace = open_trace(tmp_path / "x")
    what = spectra.info(trace, UP)
    assert what.curves == ()
    assert "at step 5" in what.missing[0].brief
    assert {"lost": "rounding", "not_converged": "converged"}[status] in what.missing[0].what
    # The step stays in the map, as a gap beside the captured one.
    heat = spectrum_map.info(trace, UP)
    assert heat.steps.tolist() == [0, 5]
    assert np.isfinite(heat.values[:, 0]).all()
    assert np.isnan(heat.values[:, 1]).all()


@pytest.mark.parametrize("fault", ["non_finite", "zero"])
def test_norms_that_cannot_be_sorted_are_said_and_leave_no_label(
    wrecks: Traces, broken: ModuleType, fault: str
) -> None:
    what = sorted_norms.info([wrecks["healthy"], wrecks[fault]], broken.LAYER)
    assert [curve.run for curve in what.curves] == ["healthy"]
    assert what.missing[0].brief == f"{WORDS[fault]} at step 5"
    drawn = sorted_norms.plot(what, theme=LIGHT)
    assert fault not in _notes(drawn)
    assert len(drawn.data) == 1


@pytest.mark.parametrize("fault", WORDS)
def test_a_run_broken_from_its_first_step_on_draws_every_figure(
    wrecks: Traces, broken: ModuleType, fault: str
) -> None:
    trace = wrecks[f"all_{fault}"]
    layer = broken.LAYER
    drawn = [
        figures.neuron_norms(trace, layer),
        figures.spectrum(trace, layer),
        figures.layer_pairs(trace),
        figures.layer_map(trace),
        figures.metric_over_steps(trace, layer),
        figures.neuron_heatmap(trace, layer),
        figures.spectrum_heatmap(trace, layer),
    ]
    figures.loss(trace)
    for figure in drawn:
        assert f"is {WORDS[fault]} at step 5" in _notes(figure)


def test_no_earlier_number_stands_for_a_broken_step(wrecks: Traces, broken: ModuleType) -> None:
    what = pairs.info([wrecks["healthy"], wrecks["non_finite"]])
    ((row,),) = [group.rows for group in what.groups]
    assert row.values[0] is not None
    assert row.values[1] is None
    assert what.missing[0].brief == "not finite at step 5"
    before = pairs.info(wrecks["non_finite"], step=4)
    assert before.groups[0].rows[0].values[0] is not None


def test_a_norm_heatmap_keeps_its_order_beside_a_broken_step(
    wrecks: Traces, broken: ModuleType
) -> None:
    what = neuron_map.info(wrecks["non_finite"], broken.LAYER)
    norms = wrecks["non_finite"].neurons(broken.LAYER)[1][:5]
    np.testing.assert_array_equal(what.neurons[:, 0], np.argsort(norms.mean(axis=0)))
    assert np.isfinite(what.values[:, 0]).all()
    assert np.isnan(what.values[:, -1]).all()


def test_a_loss_that_is_not_finite_is_said(wrecks: Traces) -> None:
    what = losses.info([wrecks["healthy"], wrecks["non_finite"], wrecks["all_non_finite"]])
    assert [one.brief for one in what.missing] == [
        "loss not finite from step 5",
        "loss not finite from step 0",
    ]
    figure = losses.plot(what, theme=LIGHT)
    assert [line.name for line in figure.data] == ["healthy", "non_finite"]
    assert "all_non_finite" not in _notes(figure)


ONE: dict[str, tuple[Callable[..., go.Figure], tuple[Any, ...]]] = {
    "layer_map": (figures.layer_map, ()),
    "neuron_heatmap": (figures.neuron_heatmap, (UP,)),
    "spectrum_heatmap": (figures.spectrum_heatmap, (UP,)),
}


@pytest.mark.parametrize("name", ONE)
def test_a_figure_of_one_run_takes_a_folder_of_one(
    fake: ModuleType, tmp_path: Path, traces: Traces, name: str
) -> None:
    draw, arguments = ONE[name]
    fake.write_run(tmp_path / "alone", "muon", steps=(0, 10))
    assert draw(open_traces(tmp_path), *arguments).data
    assert draw([traces["muon"]], *arguments).data
    with pytest.raises(OptgeomError, match=r'got 3 \(adamw, .*traces\["adamw"\]'):
        draw(traces, *arguments)


def test_what_is_unknown_stays_a_gap_of_the_trace(wrecks: Traces, broken: ModuleType) -> None:
    absent = over_steps.info(wrecks["zero"], broken.LAYER, "neuron_norm_cv", stage="weight")
    assert "holds no metrics of the stage weight" in absent.missing[0].what
    grid = layer_grid.info(wrecks["healthy"], "neuron_norm_cv", stage="weight")
    assert "stages=" in grid.missing[0].code
