"""Every figure: its info against numbers read from the trace, its drawing by a smoke test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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
from optgeom.figures.names import TIMES
from optgeom.figures.theme import DARK, LIGHT
from optgeom.traces import Cell, TraceWriter
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.store import Traces, open_trace

UP = "blocks.1.mlp.up.weight"
Q = "blocks.0.attention.q.weight"


def _texts(figure: go.Figure) -> str:
    return " ".join(str(note.text) for note in figure.layout.annotations)


def test_sorted_norms_are_the_traces_norms_over_their_mean(traces: Traces) -> None:
    what = sorted_norms.info([traces["muon"], traces["normuon"]], UP, step=20)
    norms = traces["normuon"].neuron_norms(20, UP).astype(np.float64)
    curve = what.curves[1]
    assert curve[:3] == ("normuon", 0, 20)
    np.testing.assert_array_equal(curve.values, np.sort(norms) / norms.mean())
    np.testing.assert_array_equal(norms[curve.neurons] / norms.mean(), curve.values)
    assert what.title == f"block 1 · mlp.up · 64{TIMES}16"
    assert what.missing == ()


def test_the_exact_curve_is_the_leverage_of_the_raw_input(traces: Traces) -> None:
    what = sorted_norms.info(traces["muon"], UP, step=30)
    matrix = traces["muon"].matrix(20, UP, stage="ns_input").astype(np.float64)
    leverage = np.sqrt(np.diag(matrix @ np.linalg.pinv(matrix)))
    (exact,) = what.exact
    assert exact.step == 20
    np.testing.assert_allclose(exact.values, np.sort(leverage / leverage.mean()), rtol=1e-5)


def test_a_raw_input_whose_last_rows_are_not_written_yet_is_passed_over(
    traces: Traces, tmp_path: Path
) -> None:
    """A rank of a live run may be a capture behind the others."""
    trace = traces["muon"]
    layer, steps = trace.layer(UP), trace.steps(UP, "ns_input", "updates").tolist()
    info = replace(trace.info, attempts=())
    with TraceWriter(tmp_path / "muon", info, wait=True) as writer:
        for step in steps:
            key = Cell(step, layer.optimizer, UP, layer.kind, layer.block, "ns_input")
            matrix = trace.matrix(step, UP, "ns_input")
            writer.update(key, matrix if step < steps[-1] else matrix[:32].copy())
            norms = Cell(step, layer.optimizer, UP, layer.kind, layer.block, "update")
            writer.neurons(norms, trace.neuron_norms(step, UP))
    (exact,) = sorted_norms.info(open_trace(tmp_path / "muon"), UP, step=steps[-1]).exact
    assert exact.step == steps[-2]


def test_wide_layers_have_no_exact_curve(traces: Traces) -> None:
    assert sorted_norms.info(traces["muon"], "blocks.1.mlp.down.weight", step=20).exact == ()


@pytest.mark.parametrize("step", [0, 10, 40])
def test_axes_are_fixed_over_all_steps_and_runs(traces: Traces, step: int) -> None:
    shown = [traces["muon"], traces["adamw"]]
    assert (
        sorted_norms.info(shown, UP, step=step).exponents == sorted_norms.info(shown, UP).exponents
    )
    assert spectra.info(shown, UP, step=step).bottom == spectra.info(shown, UP).bottom
    assert pairs.info(shown, step=step).maximum == pairs.info(shown).maximum


def test_all_values_lie_on_the_axis(traces: Traces) -> None:
    for step in (0, 20, 40):
        what = sorted_norms.info(traces, UP, step=step)
        values = np.concatenate([curve.values for curve in what.curves])
        low, high = what.exponents
        assert 2.0**low <= values.min()
        assert values.max() <= 2.0**high


def test_the_nearest_earlier_capture_is_used(traces: Traces) -> None:
    assert sorted_norms.info(traces["muon"], UP, step=19).curves[0].step == 10
    assert spectra.info(traces["muon"], UP, step=19).curves[0].step == 10


def test_spectra_are_relative_and_stand_beside_the_momentum(traces: Traces) -> None:
    what = spectra.info([traces["muon"]], UP, step=40)
    update, momentum = what.curves
    values = traces["muon"].spectrum(40, UP)
    np.testing.assert_allclose(update.values, values / values[0])
    assert (update.stage, momentum.stage) == ("update", "momentum")
    assert what.floor == pytest.approx(1.2e-7)


def test_the_band_is_drawn_only_where_the_axis_reaches_the_floor(traces: Traces) -> None:
    what = spectra.info([traces["muon"]], UP)
    assert not any(trace.fill for trace in spectra.plot(what, theme=LIGHT).data)
    raised = what._replace(floor=0.01)
    figure = spectra.plot(raised, theme=LIGHT)
    assert figure.data[0].fillpattern.shape == "/"
    assert "below rounding" in _texts(figure)


def test_pairs_by_kind_then_depth(traces: Traces) -> None:
    what = pairs.info([traces["muon"], traces["normuon"]], step=40)
    assert [group.kind for group in what.groups][:2] == ["attention.q", "attention.k"]
    assert what.slots == (1, 0)
    up = next(group for group in what.groups if group.kind == "mlp.up")
    assert [row.layer for row in up.rows] == ["blocks.0.mlp.up.weight", UP]
    norms = traces["muon"].neuron_norms(40, UP).astype(np.float64)
    assert up.rows[1].values[0] == pytest.approx(norms.std() / norms.mean(), rel=1e-6)
    pair = [row.values[0] for row in up.rows]
    assert up.medians[0] == pytest.approx(np.median(pair))


def test_a_pair_of_one_run(traces: Traces) -> None:
    what = pairs.info(traces["muon"])
    assert all(len(row.values) == 1 for group in what.groups for row in group.rows)
    assert len(pairs.plot(what, theme=LIGHT).data) == 2


@pytest.mark.parametrize("against", ["step", "tokens", "time"])
def test_loss_against(traces: Traces, against: losses.Abscissa) -> None:
    what = losses.info(traces, against=against)
    assert [curve.run for curve in what.curves] == ["adamw", "muon", "normuon"]
    assert all(len(curve.x) == len(curve.y) == 41 for curve in what.curves)
    assert all(np.all(np.diff(curve.x) > 0) for curve in what.curves)
    if against == "tokens":
        assert what.curves[0].x[3] == 4 * 4096


def test_a_scalar_that_was_not_logged_is_drawn_as_missing(traces: Traces) -> None:
    what = losses.info(traces["muon"], name="accuracy")
    assert what.curves == ()
    assert what.missing[0].code == "rec.log(accuracy=accuracy.item())"
    text = _texts(losses.plot(what, theme=LIGHT))
    assert "Muon has no scalar called accuracy" in text


def test_metric_over_steps_with_quartiles_of_its_kind(traces: Traces) -> None:
    what = over_steps.info(traces["muon"], UP, "neuron_norm_cv")
    (curve,) = what.curves
    assert curve.steps.tolist() == [0, 10, 20, 30, 40]
    assert np.all(curve.low <= curve.high)
    norms = traces["muon"].neuron_norms(30, UP).astype(np.float64)
    assert curve.values[3] == pytest.approx(norms.std() / norms.mean(), rel=1e-6)


def test_the_band_breaks_where_no_layer_of_the_kind_has_a_number(traces: Traces) -> None:
    what = over_steps.info(traces["muon"], UP, "neuron_norm_cv")
    hole = np.array([0.1, 0.1, np.nan, 0.1, 0.1])
    curve = what.curves[0]._replace(low=hole, high=3 * hole)
    band = over_steps.plot(what._replace(curves=(curve,)), theme=LIGHT).data[0]
    np.testing.assert_array_equal(band.x, [0, 10, 10, 0, 0, 30, 40, 40, 30])
    np.testing.assert_allclose(band.y, [0.3, 0.3, 0.1, 0.1, np.nan, 0.3, 0.3, 0.1, 0.1], rtol=1e-6)


def test_heatmap_rows_are_sorted_by_mean_norm(traces: Traces) -> None:
    what = neuron_map.info(traces["muon"], UP)
    steps, norms = traces["muon"].neurons(UP)
    np.testing.assert_array_equal(what.steps, steps)
    np.testing.assert_array_equal(what.neurons[:, 0], np.argsort(norms.mean(axis=0)))
    last = norms[-1].astype(np.float64)
    expected = (last / last.mean())[what.neurons[:, -1]]
    np.testing.assert_allclose(what.values[:, -1], expected, rtol=1e-9)


def test_spectrum_heatmap_and_layer_map(traces: Traces) -> None:
    spectrum = spectrum_map.info(traces["muon"], UP)
    assert spectrum.values[0].tolist() == [1.0] * 5
    everything = layer_grid.info(traces["muon"], "condition_number")
    assert len(everything.values) == sum(len(titles) for _, titles in everything.kinds) == 12


def test_what_a_run_does_not_hold_is_said_with_its_line_of_code(
    fake: ModuleType, tmp_path: Path
) -> None:
    fake.write_run(tmp_path / "muon", "muon", blocks=1, stages=("update",), spectra=False)
    trace = open_trace(tmp_path / "muon")
    what = spectra.info(trace, Q)
    (missing,) = what.missing
    title = f"block 0 · attention.q · 16{TIMES}16"
    assert missing.what == f"Muon holds no singular values of the stage update for {title}."
    assert "spectra_every" in missing.code
    momentum = sorted_norms.info(trace, Q, stage="momentum")
    assert momentum.missing[0].code.endswith("stages=('update', 'momentum'))")
    figure = sorted_norms.plot(momentum, theme=LIGHT)
    assert "optgeom.watch" in _texts(figure)


def test_a_layer_that_one_run_lacks_is_still_drawn_of_the_other(
    traces: Traces, fake: ModuleType, tmp_path: Path
) -> None:
    fake.write_run(tmp_path / "small", "normuon", blocks=1)
    what = sorted_norms.info([open_trace(tmp_path / "small"), traces["muon"]], UP)
    assert [curve.run for curve in what.curves] == ["muon"]
    assert "small holds no neuron norms" in what.missing[0].what


def test_zero_rows_do_not_stretch_the_axis(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0,), close=False)
    key = fake.Cell(1, "optimizer", Q, "attention.q", 0, "update")
    norms = np.array([0.0, 1e-12, *[1.0] * 14], dtype=np.float32)
    writer.metrics(key, {"neuron_norm_cv": 0.4, "status": "ok"})
    writer.neurons(key, norms)
    writer.close()
    what = sorted_norms.info(open_trace(tmp_path / "x"), Q)
    assert what.exponents[0] == sorted_norms.LOWEST
    assert min(sorted_norms.plot(what, theme=LIGHT).data[0].y) == sorted_norms.LOWEST
    heat = neuron_map.info(open_trace(tmp_path / "x"), Q)
    of_zero = np.flatnonzero(heat.neurons[:, -1] == 0)
    assert heat.values[of_zero, -1].tolist() == [0.0]


def test_names_are_never_markup(fake: ModuleType, tmp_path: Path) -> None:
    hostile = "<b>bold</b><script>alert(1)</script>"
    fake.write_run(tmp_path / "<i>run<i>", "muon", blocks=1, names=(hostile,))
    trace = open_trace(tmp_path / "<i>run<i>")
    drawn = [
        figures.neuron_norms(trace, hostile),
        figures.layer_pairs(trace),
        figures.layer_map(trace),
        figures.loss(trace),
    ]
    for figure in drawn:
        text = str(figure.to_json())
        assert "<script" not in text
        assert "\\u003ci\\u003erun" not in text
        assert "<i>run" not in text


DRAWERS: dict[str, Callable[[Traces, figures.ThemeName], go.Figure]] = {
    "neuron_norms": lambda t, theme: figures.neuron_norms(t, UP, theme=theme),
    "spectrum": lambda t, theme: figures.spectrum(t, UP, step=20, theme=theme),
    "layer_pairs": lambda t, theme: figures.layer_pairs(t, theme=theme),
    "loss": lambda t, theme: figures.loss(t, theme=theme),
    "metric_over_steps": lambda t, theme: figures.metric_over_steps(t, UP, theme=theme),
    "neuron_heatmap": lambda t, theme: figures.neuron_heatmap(t["muon"], UP, theme=theme),
    "spectrum_heatmap": lambda t, theme: figures.spectrum_heatmap(t["muon"], UP, theme=theme),
    "layer_map": lambda t, theme: figures.layer_map(t["muon"], theme=theme),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", DRAWERS)
def test_every_figure_draws_in_its_theme(
    traces: Traces, name: str, theme: figures.ThemeName
) -> None:
    figure = DRAWERS[name](traces, theme)
    assert figure.data
    assert figure.layout.paper_bgcolor == {"light": LIGHT, "dark": DARK}[theme].ground
    assert figure.layout.title.text is None
    assert figure.layout.showlegend is False
    assert str(figure.to_json())


def test_public_names() -> None:
    assert set(DRAWERS) <= set(figures.__all__)
    assert all(hasattr(figures, name) for name in figures.__all__)


def test_an_unknown_layer_is_an_error_with_close_matches(traces: Traces) -> None:
    with pytest.raises(NotCaptured, match=r"did you mean .*mlp\.up"):
        figures.neuron_norms(traces, "blocks.1.mlp.upp.weight")
    with pytest.raises(OptgeomError):
        figures.loss([])


def test_an_unknown_metric_is_an_error_with_close_matches(traces: Traces) -> None:
    layer = traces["muon"].layers[0].name
    with pytest.raises(OptgeomError, match="try update_rms"):
        figures.metric_over_steps(traces, layer, "update_rm")
    with pytest.raises(OptgeomError, match="try update_rms"):
        figures.layer_map(traces["muon"], "update_rm")
    with pytest.raises(OptgeomError, match="try update_rms"):
        figures.layer_pairs(traces, metric="update_rm")


def test_a_path_is_answered_with_the_call_that_opens_it() -> None:
    with pytest.raises(OptgeomError, match=r"open_trace\('runs/adamw'\)"):
        figures.loss("runs/adamw")  # type: ignore[arg-type] # what a hurried user writes


def test_drawing_imports_no_torch_and_no_dash(demo: Path) -> None:
    code = (
        "import sys; from optgeom import figures; from optgeom.traces.store import open_traces; "
        f"figures.neuron_norms(open_traces({str(demo)!r}), {UP!r}); "
        "print([m for m in ('torch', 'dash') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
