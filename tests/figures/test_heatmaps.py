"""Heatmaps of more captures and rows than they have cells: what is extreme is always shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.figures import layer_grid, neuron_map, spectrum_map
from optgeom.figures.columns import MOST
from optgeom.figures.theme import LIGHT
from optgeom.traces.store import Trace, open_trace

DOWN = "blocks.0.mlp.down.weight"


Opener = Callable[..., Trace]


@pytest.fixture(scope="module")
def opened(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Writes a run of given numbers and opens it."""

    def write(steps: Any, **numbers: Any) -> Trace:
        out = tmp_path_factory.mktemp("numbers") / "run"
        fake.write_arrays(out, [int(step) for step in steps], **numbers)
        return open_trace(out)

    return write


@pytest.fixture(scope="module")
def many(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """2,000 neurons at 500 captures; one dormant once, one exploding once, step 2,000 diverged."""
    rng = np.random.default_rng(0)
    norms = np.exp(0.3 * rng.standard_normal((500, 2000)))
    norms[123, 1500] = 1e-5
    norms[321, 77] = 1e3
    norms[200] = np.nan
    out = tmp_path_factory.mktemp("heatmaps") / "many"
    values = np.exp(rng.standard_normal((500, 1)))
    fake.write_arrays(out, range(0, 5000, 10), norms=norms, metrics=values)
    return open_trace(out)


def test_a_dormant_and_an_exploding_neuron_are_seen(many: Trace) -> None:
    what = neuron_map.info(many, DOWN)
    rows, columns = what.values.shape
    assert (rows, what.total) == (256, 2000)
    assert columns <= MOST
    steps, norms = many.neurons(DOWN)
    ratio = norms / norms.mean(axis=1, keepdims=True, dtype=np.float64)
    low = np.unravel_index(np.nanargmin(what.values), what.values.shape)
    high = np.unravel_index(np.nanargmax(what.values), what.values.shape)
    assert (what.neurons[low], what.at[low]) == (1500, 1230)
    assert (what.neurons[high], what.at[high]) == (77, 3210)
    # Every shown number is that of its neuron at its step.
    shown = np.isfinite(what.values)
    at = np.searchsorted(steps, what.at[shown])
    np.testing.assert_allclose(what.values[shown], ratio[at, what.neurons[shown]])


def test_a_zoom_shows_more_and_moves_no_row(many: Trace) -> None:
    every, zoomed = (neuron_map.info(many, DOWN, span=span) for span in (None, (2500, 2600)))
    np.testing.assert_array_equal(every.order, zoomed.order)
    assert zoomed.place_of(77) == every.place_of(77)
    assert zoomed.steps.tolist() == list(range(2490, 2611, 10))
    assert zoomed.ends == (2500, 2600)
    assert np.isfinite(zoomed.values).all()


def test_a_diverged_capture_is_a_gap(many: Trace) -> None:
    what = neuron_map.info(many, DOWN, span=(1980, 2020))
    of = dict(zip(what.steps.tolist(), np.isnan(what.values).all(axis=0).tolist(), strict=True))
    assert of == {step: step == 2000 for step in range(1970, 2031, 10)}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 260), st.integers(12, 700), st.integers(0, 2**32 - 1), st.data())
def test_planted_neurons_survive_any_downsampling(
    opened: Opener, captures: int, neurons: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    norms = np.exp(0.2 * rng.standard_normal((captures, neurons)))
    steps = np.cumsum(rng.choice([1, 1, 1, 1, 7], size=captures))
    any_capture, any_neuron = st.integers(0, captures - 1), st.integers(0, neurons - 1)
    dormant = data.draw(any_capture), data.draw(any_neuron)
    loud = data.draw(any_capture), (dormant[1] + 1) % neurons
    norms[:, dormant[1]] = 0.1
    norms[dormant], norms[loud] = 1e-9, 1e4
    what = neuron_map.info(opened(steps, norms=norms), DOWN)
    for flat, planted in ((np.nanargmin(what.values), dormant), (np.nanargmax(what.values), loud)):
        assert (what.neurons.flat[flat], what.at.flat[flat]) == (planted[1], steps[planted[0]])
        expected = norms[planted] / norms[planted[0]].mean()
        assert what.values.flat[flat] == pytest.approx(expected, rel=1e-5)


def test_a_layer_map_shows_what_is_farthest_from_the_layers_median(opened: Opener) -> None:
    rng = np.random.default_rng(1)
    values = np.exp(0.1 * rng.standard_normal((700, 14)))
    values[345, 3], values[346, 3], values[100, 9] = 90.0, 0.001, np.nan
    trace = opened(range(0, 7000, 10), metrics=values, count=14)
    what = layer_grid.info(trace, "neuron_norm_cv")
    assert what.values.shape[0] == 14
    assert what.values.shape[1] <= MOST
    row = what.layers.index(trace.layers[3].name)
    # 0.001 is farther from a median of 1 than 90 is, in ratio: what a difference would hide.
    assert 0.001 in what.values[row]
    assert what.at[row, what.values[row].tolist().index(0.001)] == 3460
    shown = np.isfinite(what.values)
    assert shown.all()
    order = [what.layers.index(layer.name) for layer in trace.layers]
    at = what.at[order].T // 10
    np.testing.assert_array_equal(what.values[order].T, np.take_along_axis(values, at, axis=0))


def test_layers_that_take_turns_keep_their_value_until_their_next_turn(opened: Opener) -> None:
    values = np.full((12, 3), np.nan)
    for layer in range(3):
        values[layer::3, layer] = 1.0 + np.arange(4)
    trace = opened(range(12), metrics=values, count=3)
    what = layer_grid.info(trace, "neuron_norm_cv")
    order = [what.layers.index(layer.name) for layer in trace.layers]
    assert what.at[order].tolist() == [
        [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9],
        [-1, 1, 1, 1, 4, 4, 4, 7, 7, 7, 10, 10],
        [-1, -1, 2, 2, 2, 5, 5, 5, 8, 8, 8, 11],
    ]


def test_a_layer_that_is_not_captured_is_a_gap(opened: Opener) -> None:
    values = np.ones((20, 2))
    values[3, 1], values[6:9, 1], values[16:, 1] = np.nan, np.nan, np.nan
    what = layer_grid.info(opened(range(20), metrics=values, count=2), "neuron_norm_cv")
    at = dict(zip(what.layers, what.at.tolist(), strict=True))
    assert at[DOWN] == list(range(20))
    (other,) = (row for name, row in at.items() if name != DOWN)
    assert other == [-1 if step in (3, 6, 7, 8) or step > 15 else step for step in range(20)]


def test_a_spectrum_map_shows_the_smallest(opened: Opener) -> None:
    rng = np.random.default_rng(2)
    values = np.sort(rng.uniform(0.2, 1.0, (300, 700)), axis=1)[:, ::-1].copy()
    values[222, -1] = 1e-6
    values[111] = np.nan
    trace = opened(range(0, 3000, 10), spectra=values)
    what = spectrum_map.info(trace, DOWN)
    assert what.values.shape[0] == 256
    assert what.indices[-1] == 699
    last = what.values[-1]
    assert what.at[-1, np.nanargmin(last)] == 2220
    ratio = values.astype(np.float32).astype(np.float64)
    ratio /= ratio[:, :1]
    assert np.nanmin(last) == pytest.approx(np.nanmin(ratio))
    shown = np.isfinite(what.values)
    rows = np.broadcast_to(what.indices[:, None], shown.shape)[shown]
    np.testing.assert_allclose(what.values[shown], ratio[what.at[shown] // 10, rows])
    zoomed = spectrum_map.info(trace, DOWN, span=(1100, 1120))
    assert np.isnan(zoomed.values).all(axis=0).tolist() == [False, False, True, False, False]
    # The colours are those of all steps.
    assert zoomed.lowest == what.lowest == pytest.approx(np.nanmin(ratio), rel=1e-5)
    assert spectrum_map.shared_floor([zoomed]) == 10.0 ** math.floor(math.log10(what.lowest))


def test_a_number_keeps_its_own_value_and_a_logarithmic_colour(many: Trace) -> None:
    what = neuron_map.info(many, DOWN)
    (drawn,) = neuron_map.plot(what, theme=LIGHT, colorbar=False).data
    np.testing.assert_array_equal(drawn.z, what.values.astype(np.float32))
    places = np.array([place for place, _ in drawn.colorscale])
    values = drawn.zmin + places * (drawn.zmax - drawn.zmin)
    np.testing.assert_allclose(values, np.geomspace(0.25, 4, len(values)))
    middle = dict(zip(np.round(values, 6), [c for _, c in drawn.colorscale], strict=True))[1.0]
    assert middle == LIGHT.ground


@pytest.mark.parametrize(("count", "shown"), [(14, 1), (200, 4)])
def test_a_layer_map_numbers_the_blocks_where_there_is_room(
    opened: Opener, count: int, shown: int
) -> None:
    trace = opened(range(5), metrics=np.ones((5, count)), count=count)
    figure = layer_grid.layer_map(trace, "neuron_norm_cv")
    notes = figure.layout.annotations
    written = [int(one.text) for one in notes if one.text.isdecimal()]
    of = {layer.name: layer.block for layer in trace.layers}
    rows = [of[name] for name in layer_grid.info(trace, "neuron_norm_cv").layers]
    assert set(written) <= set(rows)
    assert len(rows) / shown - 1 < len(written) < len(rows) / shown + 8
    for number in written:  # at the row of that block
        places = [1 - one.y for one in notes if one.text == str(number)]
        middles = [
            tick / figure.layout.yaxis.range[0]
            for tick, block in zip(figure.layout.yaxis.tickvals, rows, strict=True)
            if block == number
        ]
        assert all(any(abs(a - b) < 1e-9 for b in middles) for a in places)
    plain = layer_grid.plot(layer_grid.info(trace, "neuron_norm_cv"), theme=LIGHT)
    assert not [one for one in plain.layout.annotations if one.text.isdecimal()]
