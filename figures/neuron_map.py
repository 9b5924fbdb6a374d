"""Every neuron of one layer over the captured steps: which ones move more, and do they stay so?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from optgeom.figures.bins import farthest
from optgeom.figures.empty import empty
from optgeom.figures.formats import number
from optgeom.figures.names import layer_title
from optgeom.figures.reading import (
    Missing,
    Source,
    captured_steps,
    find_layer,
    missing_table,
    one_trace,
)
from optgeom.figures.statuses import nothing_in
from optgeom.figures.theme import Theme, ThemeName, axis, layout, theme_of

HEIGHT = 280
LIMIT = 2.0
# log2 of a norm of 0: farther than anything measured, and still a number for plotly.
ZERO = -1e3


class NeuronHeatmapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        steps: captured steps.
        values: log2(norm / mean), a row per bin, smallest mean norm first;
            ``ZERO`` for a norm of 0, None where the whole matrix is zero or not finite.
        neurons: the neuron that each value is of.
        total: neurons of the layer.
        missing: what the run lacks.
    """

    title: str
    steps: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    total: int
    missing: tuple[Missing, ...]


def info(source: Source, layer: str, *, stage: str = "update") -> NeuronHeatmapInfo:
    """Collect the neuron norms of one layer at all captured steps.

    Args:
        source: one run.
        layer: the layer's name.
        stage: the stage of the norms.
    """
    trace = one_trace(source)
    described = find_layer([trace], layer)
    title = layer_title(described)
    if not captured_steps(trace, layer, stage=stage, table="neurons"):
        missing = missing_table(trace, title=title, stage=stage, table="neurons")
        return NeuronHeatmapInfo(title, (), (), (), 0, (missing,))
    steps, block = trace.neurons(layer, stage=stage)
    norms = np.asarray(block, dtype=np.float64)
    means = norms.mean(axis=1, keepdims=True)
    usable = np.isfinite(means[:, 0]) & (means[:, 0] > 0)
    if not usable.any():
        why = nothing_in(trace, title=title, stage=stage, table="metrics", layer=layer)
        return NeuronHeatmapInfo(title, (), (), (), 0, (why,))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log2(norms / means).T
    # A norm of 0 is the farthest of all: it wins its bin, and is drawn as 1/4 or less.
    logs = np.where(np.isneginf(logs), ZERO, logs)
    order = np.argsort(norms[usable].mean(axis=0), kind="stable")
    binned, source = farthest(logs[order])
    values = tuple(tuple(v if np.isfinite(v) else None for v in row) for row in binned.tolist())
    return NeuronHeatmapInfo(
        title,
        tuple(int(step) for step in steps),
        values,
        tuple(tuple(row) for row in order[source].tolist()),
        norms.shape[1],
        (),
    )


def plot(what: NeuronHeatmapInfo, *, theme: Theme, height: int = HEIGHT) -> go.Figure:
    """Draw log2(norm / mean), neuron by step, on the diverging scale from 1/4 to 4."""
    if not what.values:
        return empty(what.missing, theme, height=height)
    written = [
        [
            f"neuron {neuron:,}<br>{_of_mean(value)}"
            for value, neuron in zip(values, neurons, strict=True)
        ]
        for values, neurons in zip(what.values, what.neurons, strict=True)
    ]
    count = len(what.values)
    return go.Figure(
        data=go.Heatmap(
            z=np.asarray(what.values, dtype=np.float32),
            x=[f"{step:,}" for step in what.steps],
            y=np.linspace(0, 100, count) if count > 1 else [50.0],
            text=written,
            hovertemplate="step %{x}<br>%{text}<extra></extra>",
            zmin=-LIMIT,
            zmax=LIMIT,
            colorscale=[list(stop) for stop in theme.diverging],
            colorbar={
                "thickness": 12,
                "outlinewidth": 0,
                "tickvals": [-2, -1, 0, 1, 2],
                "ticktext": ["1/4 or less", "1/2", "1", "2", "4 or more"],
                "tickfont": {"size": 12, "color": theme.muted},
            },
        ),
        layout=layout(
            theme,
            height=height,
            right=96,
            hovermode="closest",
            xaxis=axis(theme, title="step", horizontal=True, type="category", nticks=8),
            yaxis=axis(
                theme,
                title="neurons by mean norm (%)",
                horizontal=False,
                showgrid=False,
                range=[0, 100],
                dtick=25,
            ),
        ),
    )


def _of_mean(value: float | None) -> str:
    norm = None if value is None else 0.0 if value <= ZERO else 2.0**value
    return f"{number(norm)} \N{MULTIPLICATION SIGN} mean"


def neuron_heatmap(
    trace: Source, layer: str, *, stage: str = "update", theme: ThemeName = "light"
) -> go.Figure:
    """Draw every neuron's norm over the captured steps, each step divided by its mean.

    Rows are sorted by mean norm over the captured steps. Above 256 neurons they are binned, and a
    bin shows its entry farthest from 1, never the mean.

    Args:
        trace: one run, or a source of exactly one.
        layer: the layer's name.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there are several runs, the trace has no such layer, or the theme is
            unknown.
    """
    return plot(info(trace, layer, stage=stage), theme=theme_of(theme))
