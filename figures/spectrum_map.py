"""The whole spectrum of one layer over the captured steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

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
from optgeom.figures.spectra import LOWEST, relative
from optgeom.figures.statuses import nothing_in
from optgeom.figures.theme import SEQUENTIAL, Theme, ThemeName, axis, layout, theme_of

HEIGHT = 280
MOST = 256


class SpectrumHeatmapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        steps: captured steps.
        places: index of each row, in %.
        values: log10(sigma_i / sigma_1), a row per index; None where nothing was resolved.
        missing: what the run lacks.
    """

    title: str
    steps: tuple[int, ...]
    places: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    missing: tuple[Missing, ...]


def info(source: Source, layer: str, *, stage: str = "update") -> SpectrumHeatmapInfo:
    """Collect the spectra of one layer at all captured steps.

    Args:
        source: one run.
        layer: the layer's name.
        stage: the stage of the spectra.
    """
    trace = one_trace(source)
    title = layer_title(find_layer([trace], layer))
    captured = captured_steps(trace, layer, stage=stage, table="spectra")
    if not captured:
        missing = missing_table(trace, title=title, stage=stage, table="spectra")
        return SpectrumHeatmapInfo(title, (), (), (), (missing,))
    steps, spectra = trace.spectra(layer, stage=stage)
    if not any(relative(one) for one in spectra):
        why = nothing_in(trace, title=title, stage=stage, table="spectra", layer=layer)
        return SpectrumHeatmapInfo(title, (), (), (), (why,))
    size = max(len(one) for one in spectra)
    rows = np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))
    # A null spectrum (diverged, zero) keeps its column: it stays a gap.
    column = {step: place for place, step in enumerate(captured)}
    block = np.full((rows.size, len(captured)), np.nan)
    for step, one in zip(steps, spectra, strict=True):
        values = np.asarray(relative(one))
        if values.size == size:
            block[:, column[int(step)]] = np.log10(np.maximum(values[rows], LOWEST))
    return SpectrumHeatmapInfo(
        title,
        captured,
        tuple((100 * rows / max(1, size - 1)).tolist()),
        tuple(tuple(v if np.isfinite(v) else None for v in row) for row in block.tolist()),
        (),
    )


def plot(what: SpectrumHeatmapInfo, *, theme: Theme, height: int = HEIGHT) -> go.Figure:
    """Draw log10(sigma_i / sigma_1), index by step, on the sequential scale."""
    known = [value for row in what.values for value in row if value is not None]
    if not known:
        return empty(what.missing, theme, height=height)
    low = float(np.floor(min(known)))
    ticks = np.arange(low, 1e-9, 1 if low >= -4 else 2).tolist()
    return go.Figure(
        data=go.Heatmap(
            z=np.asarray(what.values, dtype=np.float32),
            x=[f"{step:,}" for step in what.steps],
            y=what.places,
            text=[
                [number(None if value is None else 10.0**value) for value in row]
                for row in what.values
            ],
            hovertemplate="step %{x}<br>index %{y:.0f} %<br>σᵢ / σ₁ %{text}<extra></extra>",
            zmin=low,
            zmax=0,
            colorscale=SEQUENTIAL,
            colorbar={
                "thickness": 12,
                "outlinewidth": 0,
                "tickvals": ticks,
                "ticktext": [number(10.0**tick) for tick in ticks],
                "tickfont": {"size": 12, "color": theme.muted},
            },
        ),
        layout=layout(
            theme,
            height=height,
            right=80,
            hovermode="closest",
            xaxis=axis(theme, title="step", horizontal=True, type="category", nticks=8),
            yaxis=axis(theme, title="index (%)", horizontal=False, showgrid=False)
            | {"range": [100, 0], "dtick": 25},
        ),
    )


def spectrum_heatmap(
    trace: Source, layer: str, *, stage: str = "update", theme: ThemeName = "light"
) -> go.Figure:
    """Draw the spectrum of one layer at every captured step, each divided by its largest value.

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
