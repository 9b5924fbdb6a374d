"""What travels to the browser: numbers as bytes, no string per cell, nothing above its limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
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
from optgeom.figures.theme import LIGHT
from optgeom.traces.store import Trace, open_trace

DOWN = "blocks.0.mlp.down.weight"
LIMIT = 800_000


@pytest.fixture(scope="module")
def large(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """400 captures up to step 4 million of 2,500 neurons and 600 singular values, 200 layers."""
    rng = np.random.default_rng(0)
    steps = range(0, 4_000_000, 10_000)
    norms = np.exp(rng.standard_normal((400, 2500)))
    values = np.sort(rng.random((400, 600)), axis=1)[:, ::-1] + 1e-3
    metrics = np.exp(rng.standard_normal((400, 200)))
    out = tmp_path_factory.mktemp("sizes") / "large"
    fake.write_arrays(out, steps, norms=norms, spectra=values, metrics=metrics, count=200)
    return open_trace(out)


def _strings(value: Any) -> Iterator[list[str]]:
    """Yield every list of strings within a figure."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        if value and all(isinstance(one, str) for one in value):
            yield value
        for one in value:
            yield from _strings(one)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (neuron_map, (DOWN,)),
        (spectrum_map, (DOWN,)),
        (layer_grid, ("neuron_norm_cv",)),
    ],
    ids=["neuron_map", "spectrum_map", "layer_grid"],
)
def test_a_heatmap_of_full_size(large: Trace, module: Any, arguments: tuple[str, ...]) -> None:
    what = module.info(large, *arguments)
    rows, columns = what.values.shape
    assert columns > 150
    assert rows in (200, 256)
    text = module.plot(what, theme=LIGHT).to_json()
    assert len(text) < LIMIT
    drawn = json.loads(text)["data"][0]
    assert drawn["z"]["dtype"] == "f4"
    assert set(drawn["customdata"]) == {"bdata", "dtype", "shape"}
    assert "text" not in drawn
    assert max(map(len, _strings(json.loads(text))), default=0) <= 200


def test_lines_of_full_size(large: Trace) -> None:
    figures = [
        sorted_norms.plot(sorted_norms.info(large, DOWN), theme=LIGHT, neuron=3),
        spectra.plot(spectra.info(large, DOWN), theme=LIGHT),
        over_steps.plot(over_steps.info([large] * 8, DOWN, "neuron_norm_cv"), theme=LIGHT),
    ]
    for figure in figures:
        text = figure.to_json()
        assert len(text) < 150_000
        assert max(map(len, _strings(json.loads(text)["data"])), default=0) <= 2


def test_a_loss_of_many_steps() -> None:
    rng = np.random.default_rng(1)
    y = 3 + 0.1 * rng.standard_normal(50_000)
    y[33_333], y[22_222], y[44_000:44_050] = 9.0, 0.5, np.nan
    x = np.arange(50_000)
    curve = losses.LossCurve("long", 0, x.astype(np.float64), y, x)
    what = losses.LossInfo("loss", "step", (curve,), (0.5, 9.0), (0, 49_999), None, ())
    (line,) = losses.plot(what, theme=LIGHT).data
    assert len(line.x) <= 1300
    assert (np.nanmin(line.y), np.nanmax(line.y)) == (0.5, 9.0)
    assert np.isnan(line.y).any()
    assert losses.table(what).num_rows == 50_000
