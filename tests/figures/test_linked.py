"""What links figures: one step axis and cursor, one zoom, the chosen neuron, shared scales."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from optgeom.figures import (
    layer_grid,
    losses,
    neuron_map,
    over_steps,
    sorted_norms,
    spectra,
    spectrum_map,
)
from optgeom.figures.scales import Scale
from optgeom.figures.steps import Span, shared_ends
from optgeom.figures.theme import LIGHT
from optgeom.traces.store import Traces, open_trace

UP = "blocks.1.mlp.up.weight"
OVER_STEPS: dict[str, tuple[Any, Callable[[Traces, Span | None], Any]]] = {
    "neuron_map": (neuron_map, lambda t, span: neuron_map.info(t["muon"], UP, span=span)),
    "spectrum_map": (spectrum_map, lambda t, span: spectrum_map.info(t["muon"], UP, span=span)),
    "layer_grid": (
        layer_grid,
        lambda t, span: layer_grid.info(t["muon"], "neuron_norm_cv", span=span),
    ),
    "over_steps": (over_steps, lambda t, span: over_steps.info(t, UP, "stable_rank", span=span)),
    "losses": (losses, lambda t, span: losses.info(t, span=span)),
}
STILL: dict[str, Callable[[Traces], go.Figure]] = {
    "sorted_norms": lambda t: sorted_norms.plot(sorted_norms.info(t, UP), theme=LIGHT),
    "spectra": lambda t: spectra.plot(spectra.info(t, UP), theme=LIGHT),
    "loss by tokens": lambda t: losses.plot(losses.info(t, against="tokens"), theme=LIGHT),
}
each = pytest.mark.parametrize("name", OVER_STEPS)


def _drawn(traces: Traces, name: str, span: Span | None = None, **settings: Any) -> go.Figure:
    module, info = OVER_STEPS[name]
    figure: go.Figure = module.plot(info(traces, span), theme=LIGHT, **settings)
    return figure


@each
def test_the_step_axis_is_numeric_and_ends_at_the_span(traces: Traces, name: str) -> None:
    for span, ends in ((None, (0, 40)), ((5, 25), (5, 25)), ((12, 18), (12, 18))):
        axis = _drawn(traces, name, span).layout.xaxis
        assert tuple(axis.range) == ends
        assert axis.type == "linear"


@each
def test_steps_are_zoomed_by_dragging_and_values_are_not(traces: Traces, name: str) -> None:
    layout = _drawn(traces, name).layout
    assert layout.dragmode == "zoom"
    assert layout.xaxis.fixedrange is False
    assert layout.yaxis.fixedrange is True
    assert layout.uirevision == _drawn(traces, name, (5, 25), cursor=20).layout.uirevision
    assert layout.meta["x"] == "step"


@pytest.mark.parametrize("name", STILL)
def test_other_figures_stay_as_they_are(traces: Traces, name: str) -> None:
    layout = STILL[name](traces).layout
    assert layout.dragmode is False
    assert layout.xaxis.fixedrange is layout.yaxis.fixedrange is True
    assert layout.meta is None


@each
def test_a_zoom_rescales_neither_values_nor_colours(traces: Traces, name: str) -> None:
    every, zoomed = _drawn(traces, name), _drawn(traces, name, (12, 18))
    assert every.layout.yaxis.range == zoomed.layout.yaxis.range
    if every.data[0].type == "heatmap":
        for setting in ("zmin", "zmax", "colorscale"):
            assert every.data[0][setting] == zoomed.data[0][setting]


@each
def test_the_first_shape_is_the_cursor(traces: Traces, name: str) -> None:
    hidden, shown = _drawn(traces, name), _drawn(traces, name, cursor=20)
    assert hidden.layout.shapes[0].visible is False
    line = shown.layout.shapes[0]
    assert (line.visible, line.x0, line.x1, line.y0, line.y1) == (True, 20, 20, 0, 1)
    assert line.yref == "paper"
    # Nothing but the shape differs: a page that moves the cursor sends nothing else.
    hidden.layout.shapes = [line]
    assert hidden.to_json() == shown.to_json()


@each
def test_a_zoom_beyond_all_captures_is_an_empty_picture(traces: Traces, name: str) -> None:
    module, info = OVER_STEPS[name]
    what = info(traces, (1000, 2000))
    assert tuple(module.plot(what, theme=LIGHT).layout.xaxis.range) == (1000, 2000)
    assert module.table(what).num_rows == 0
    assert module.words(what)


@pytest.mark.parametrize("name", ["over_steps", "losses"])
def test_zoomed_lines_reach_the_edges_of_the_picture(traces: Traces, name: str) -> None:
    drawn = _drawn(traces, name, (12, 28))
    lines = [one for one in drawn.data if one.mode.startswith("lines")]
    assert lines
    for line in lines:
        assert line.x[0] < 12 < 28 < line.x[-1]
        assert sum(x < 12 for x in line.x) == sum(x > 28 for x in line.x) == 1


def test_cells_stand_around_their_captures(traces: Traces) -> None:
    drawn = _drawn(traces, "neuron_map").data[0]
    assert drawn.x.tolist() == [-5, 5, 15, 25, 35, 45]
    assert drawn.customdata[0, :, 0].tolist() == [0, 10, 20, 30, 40]


def test_a_cell_knows_its_neuron_index_or_layer(traces: Traces) -> None:
    what = neuron_map.info(traces["muon"], UP)
    cells = neuron_map.plot(what, theme=LIGHT).data[0].customdata
    np.testing.assert_array_equal(cells[..., 1], what.neurons)
    what = spectrum_map.info(traces["muon"], UP)
    cells = spectrum_map.plot(what, theme=LIGHT).data[0].customdata
    assert cells[:, 0, 1].tolist() == list(range(16))
    grid = layer_grid.info(traces["muon"], "stable_rank")
    figure = layer_grid.plot(grid, theme=LIGHT)
    z, cells = figure.data[0].z, figure.data[0].customdata
    assert figure.layout.meta["layers"] == grid.layers
    full = np.isfinite(z)
    np.testing.assert_array_equal(
        z[full], grid.values[cells[..., 1][full], cells[..., 0][full] // 10].astype(np.float32)
    )


@pytest.mark.parametrize("neuron", [0, 12, 63])
def test_the_chosen_neuron_is_marked_where_it_stands(traces: Traces, neuron: int) -> None:
    what = sorted_norms.info([traces["muon"], traces["normuon"]], UP, step=20)
    figure = sorted_norms.plot(what, theme=LIGHT, neuron=neuron)
    dots = [one for one in figure.data if one.mode == "markers"]
    assert [dot.marker.color for dot in dots] == [LIGHT.run(1), LIGHT.run(0)]
    for dot, run in zip(dots, ("muon", "normuon"), strict=True):
        norms = traces[run].neuron_norms(20, UP).astype(np.float64)
        rank = int((norms < norms[neuron]).sum())
        assert dot.x[0] == pytest.approx(100 * rank / 63)
        assert dot.y[0] == pytest.approx(np.log2(norms[neuron] / norms.mean()))
    labels = [note.text for note in figure.layout.annotations]
    assert labels.count(f"neuron {neuron}") == 1


def test_the_chosen_neurons_row_is_marked(traces: Traces) -> None:
    what = neuron_map.info(traces["muon"], UP)
    line = neuron_map.plot(what, theme=LIGHT, neuron=12).layout.shapes[1]
    row = what.neurons[:, 0].tolist().index(12)
    assert what.edges[row] < line.y0 == line.y1 == what.place_of(12) < what.edges[row + 1]


def test_a_neuron_that_the_layer_does_not_have_is_not_marked(traces: Traces) -> None:
    what = neuron_map.info(traces["muon"], UP)
    assert what.place_of(64) is None
    assert len(neuron_map.plot(what, theme=LIGHT, neuron=64).layout.shapes) == 1
    norms = sorted_norms.info(traces["muon"], UP)
    figure = sorted_norms.plot(norms, theme=LIGHT, neuron=64)
    assert not any("neuron 64" in note.text for note in figure.layout.annotations)


@pytest.mark.parametrize("name", ["neuron_map", "spectrum_map", "layer_grid"])
def test_without_a_bar_the_margins_are_equal(traces: Traces, name: str) -> None:
    module = OVER_STEPS[name][0]
    every = {
        "neuron_map": lambda t: neuron_map.info(t, UP),
        "spectrum_map": lambda t: spectrum_map.info(t, UP),
        "layer_grid": lambda t: layer_grid.info(t, "condition_number"),
    }[name]
    bare = [
        module.plot(every(traces[run]), theme=LIGHT, colorbar=False) for run in ("muon", "normuon")
    ]
    margins = [figure.layout.margin.to_plotly_json() for figure in bare]
    assert margins[0] == margins[1]
    assert margins[0]["r"] == 16
    assert all(len(figure.data) == 1 for figure in bare)
    with_bar = module.plot(every(traces["muon"]), theme=LIGHT)
    assert with_bar.data[1].marker.showscale is True


def test_runs_side_by_side_share_scale_and_axis(traces: Traces) -> None:
    infos = [layer_grid.info(traces[run], "condition_number") for run in ("adamw", "normuon")]
    scale = layer_grid.shared_scale(infos)
    assert scale.low == min(one.values.min() for one in infos)
    assert scale.high == max(one.values.max() for one in infos)
    assert scale.logarithmic
    drawn = [layer_grid.plot(one, theme=LIGHT, scale=scale, ends=(0, 90)) for one in infos]
    assert drawn[0].data[0].zmax == drawn[1].data[0].zmax == scale.high
    assert all(tuple(one.layout.xaxis.range) == (0, 90) for one in drawn)
    spectrums = [spectrum_map.info(traces[run], UP) for run in ("adamw", "normuon")]
    floor = spectrum_map.shared_floor(spectrums)
    assert floor <= min(one.lowest for one in spectrums) < 10 * floor
    assert spectrum_map.plot(spectrums[1], theme=LIGHT, floor=floor).data[0].zmin == floor
    assert shared_ends(infos) == (0, 40)
    late = infos[0]._replace(ends=(0, 55)), infos[0]._replace(ends=(0, 99), missing=("none",))
    assert shared_ends([infos[1], *late]) == (0, 55)
    assert layer_grid.shared_scale([]).high > 0
    assert spectrum_map.shared_floor([]) < 1


def test_where_a_scale_is_not_logarithmic(traces: Traces) -> None:
    what = layer_grid.info(traces["muon"], "stable_rank")
    near = what._replace(extent=(1.9, 7.9), usual=2.0)
    far = what._replace(extent=(1.9, 8.1), usual=2.0)
    assert layer_grid.shared_scale([near]) == Scale(1.9, 7.9, False)
    assert layer_grid.shared_scale([near, far]) == Scale(1.9, 8.1, True)
    assert not layer_grid.shared_scale([far, far._replace(extent=(-1.0, 1.0))]).logarithmic


def test_one_tiny_value_does_not_take_all_the_colours(traces: Traces) -> None:
    what = layer_grid.info(traces["muon"], "neuron_norm_cv")
    for tiny in (1e-7, 0.0):
        scale = layer_grid.shared_scale([what._replace(extent=(tiny, 0.5), usual=0.02)])
        assert scale == Scale(0.005, 0.5, True, below=True)
        figure = layer_grid.plot(what, theme=LIGHT, scale=scale)
        assert figure.data[0].zmin == 0.005
        assert figure.data[1].marker.colorbar.ticktext[0].endswith(" or less")


def test_one_tiny_value_does_not_take_all_of_the_axis(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0,), close=False)
    for step, value in enumerate((1e-7, *[0.1] * 30, 0.4), start=1):
        key = fake.Cell(step, "optimizer", "blocks.0.mlp.up.weight", "mlp.up", 0, "update")
        ratio = {1e-7: 1e-7, 0.1: 0.1, 0.4: 4.0}[value]
        measured = {"neuron_norm_cv": value, "neuron_norm_max_min": ratio, "status": "ok"}
        writer.metrics(key, measured)
    writer.close()
    layer = "blocks.0.mlp.up.weight"
    what = over_steps.info(open_trace(tmp_path / "x"), layer, "neuron_norm_cv")
    assert not what.logarithmic
    spread = over_steps.info(open_trace(tmp_path / "x"), layer, "neuron_norm_max_min")
    assert spread.logarithmic
    assert spread.extent[0] == pytest.approx(0.01)


def test_bounds_are_hollow_and_prefixed(traces: Traces) -> None:
    what = over_steps.info(traces["muon"], UP, "condition_number")
    curve = what.curves[0]._replace(bounds=np.array([False, True, False, False, False]))
    line = over_steps.plot(what._replace(curves=(curve,)), theme=LIGHT).data[1]
    assert line.marker.symbol == ("circle", "circle-open", "circle", "circle", "circle")
    assert line.text == ("", "\N{GREATER-THAN OR EQUAL TO} ", "", "", "")
    assert "%{text}%{y:" in line.hovertemplate
