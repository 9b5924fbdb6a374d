"""The whole spectrum of one layer over the captured steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import columns, tables
from optgeom.figures.arrays import (
    NO_FLOAT_CELLS,
    NO_FLOATS,
    NO_INT_CELLS,
    NO_INTS,
    Floats,
    Ints,
    small_whole,
)
from optgeom.figures.bins import MOST, bins_of
from optgeom.figures.columns import Columns
from optgeom.figures.empty import empty
from optgeom.figures.formats import number, whole
from optgeom.figures.names import layer_stage, layer_title, run_label
from optgeom.figures.reading import (
    Missing,
    Source,
    captured_steps,
    find_layer,
    missing_table,
    one_trace,
)
from optgeom.figures.scales import Scale, bar, colours
from optgeom.figures.spectra import LOWEST, lowest_ratio
from optgeom.figures.statuses import nothing_in
from optgeom.figures.steps import Span, drawn, reach, step_layout
from optgeom.figures.theme import Theme, ThemeName, axis, theme_of

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

HEIGHT = 280
RIGHT, BAR = 16, 80


class SpectrumHeatmapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        run: the run.
        title: the layer's display name.
        layer: the layer.
        stage: the stage of the spectra.
        steps: the captured steps of the span and one beyond either end.
        columns: how they are laid out.
        edges: where rows begin and end, in % of the index.
        indices: (rows,) the index of the singular value that each row shows: its smallest.
        values: (rows, columns) sigma_i / sigma_1; NaN where there is none.
        at: the captured step that each value is of, -1 where there is none.
        lowest: the smallest positive ratio over all steps.
        ends: where the step axis begins and ends.
        span: the zoom; None for all steps.
        missing: what the run lacks.
    """

    run: str
    title: str
    layer: LayerInfo
    stage: str
    steps: Ints
    columns: Columns
    edges: Floats
    indices: Ints
    values: Floats
    at: Ints
    lowest: float
    ends: Span
    span: Span | None
    missing: tuple[Missing, ...]


def info(
    source: Source, layer: str, *, stage: str = "update", span: Span | None = None
) -> SpectrumHeatmapInfo:
    """Collect the spectra of one layer at the captured steps.

    Args:
        source: one run.
        layer: the layer's name.
        stage: the stage of the spectra.
        span: the first and last step shown; None for all. The colours are those of all steps.
    """
    trace = one_trace(source)
    described = find_layer([trace], layer)
    title = layer_title(described)
    every = np.array(captured_steps(trace, layer, stage=stage, table="spectra"), dtype=np.int64)
    lowest = lowest_ratio(trace, layer, stage) if len(every) else None
    if lowest is None:
        why = (
            nothing_in(trace, title=title, stage=stage, table="spectra", layer=layer)
            if len(every)
            else missing_table(trace, title=title, stage=stage, table="spectra")
        )
        return SpectrumHeatmapInfo(
            trace.name,
            title,
            described,
            stage,
            steps=NO_INTS,
            columns=columns.NO_COLUMNS,
            edges=NO_FLOATS,
            indices=NO_INTS,
            values=NO_FLOAT_CELLS,
            at=NO_INT_CELLS,
            lowest=1.0,
            ends=reach([], span),
            span=span,
            missing=(why,),
        )
    steps = every[drawn(every, span)]
    ratios = _ratios(trace, layer, stage, steps)
    bins = bins_of(ratios.shape[1], most=MOST)
    # Singular values descend: the last of a bin is its smallest.
    indices = bins.edges[1:] - 1
    block = ratios[:, indices].T
    laid = columns.columns_of(steps)
    picked = columns.pick(-block, laid)
    values = columns.at(block, picked)
    return SpectrumHeatmapInfo(
        trace.name,
        title,
        described,
        stage,
        steps,
        laid,
        100 * bins.edges / max(1, ratios.shape[1]),
        indices,
        values,
        np.where(np.isfinite(values), steps[np.maximum(picked, 0)], -1),
        lowest,
        reach([every], span),
        span,
        (),
    )


def _ratios(trace: Trace, layer: str, stage: str, steps: Ints) -> Floats:
    """Return sigma_i / sigma_1, (steps, r); a row of NaN where there is no spectrum."""
    if not len(steps):
        return np.empty((0, 0))
    wanted = slice(int(steps[0]), int(steps[-1]) + 1)
    found, spectra = trace.spectra(layer, stage=stage, steps=wanted)
    size = max((len(one) for one in spectra), default=0)
    # A null spectrum (diverged, zero) keeps its column: it stays a gap.
    ratios = np.full((len(steps), size), np.nan)
    for row, one in zip(np.searchsorted(steps, found).tolist(), spectra, strict=True):
        if len(one) == size and size and np.isfinite(one).all() and one[0] > 0:
            ratios[row] = one / one[0]
    return ratios


def shared_floor(infos: Iterable[SpectrumHeatmapInfo]) -> float:
    """Return where the colours of several runs side by side end: a power of ten."""
    lowest = min((one.lowest for one in infos), default=1.0)
    return 10.0 ** min(-1, math.floor(math.log10(max(lowest, LOWEST))))


def plot(
    what: SpectrumHeatmapInfo,
    *,
    theme: Theme,
    height: int = HEIGHT,
    cursor: int | None = None,
    floor: float | None = None,
    colorbar: bool = True,
    ends: Span | None = None,
) -> go.Figure:
    """Draw sigma_i / sigma_1, index by step, on the sequential scale, logarithmic.

    Args:
        what: the values.
        theme: the colours.
        height: pixels.
        cursor: the chosen step.
        floor: the value of the first colour, shared with other runs; by default that of this run.
        colorbar: False leaves the bar away, for a page that draws one of its own.
        ends: the step axis, shared with other runs; by default that of this run.
    """
    if what.missing:
        return empty(what.missing, theme, height=height)
    scale = Scale(shared_floor([what]) if floor is None else floor, 1.0, True)
    index = np.broadcast_to(what.indices[:, None], what.values.shape)
    data = [
        go.Heatmap(
            z=what.values.astype(np.float32),
            x=what.columns.edges,
            y=what.edges,
            customdata=small_whole(np.maximum(what.at, 0), index),
            hoverongaps=False,
            hovertemplate="step %{customdata[0]:,d}<br>index %{customdata[1]:,d}, %{y:.0f} %<br>"
            "σᵢ / σ₁ %{z:.3~g}<extra></extra>",
            showscale=False,
            **colours(scale, theme, "sequential"),
        )
    ]
    if colorbar:
        every = 1 if scale.low >= 1e-4 else 2
        powers = range(0, round(math.log10(scale.low)) - 1, -every)
        ticks = [(10.0**power, number(10.0**power)) for power in powers]
        data.append(bar(scale, theme, "sequential", ticks=ticks))
    return go.Figure(
        data=data,
        layout=step_layout(
            theme,
            ends=ends if ends is not None and what.span is None else what.ends,
            cursor=cursor,
            over_cells=True,
            height=height,
            right=BAR if colorbar else RIGHT,
            hovermode="closest",
            yaxis=axis(theme, title="index (%)", horizontal=False, showgrid=False)
            | {"range": [100, 0], "dtick": 25},
        ),
    )


def table(what: SpectrumHeatmapInfo) -> pa.Table:
    """Return the figure's data: a row per drawn cell of the span that holds a number."""
    schema = {
        "run": pa.string(),
        "layer": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        "index": pa.int64(),
        "sigma_i / sigma_1": pa.float64(),
    }
    rows, places = np.nonzero(columns.usable(what.values, what.at, what.span))
    each = [what.run, what.layer.name, what.stage, what.at[rows, places]]
    each += [what.indices[rows], what.values[rows, places]]
    return tables.stacked([dict(zip(schema, each, strict=True))] if len(rows) else [], schema)


def words(what: SpectrumHeatmapInfo) -> str:
    """Return the figure in a sentence: where the smallest singular value begins and ends."""
    usable = columns.usable(what.values, what.at, what.span)
    if not usable.any():
        nothing = "" if what.missing else f"{run_label(what.run)} has no spectrum in these steps."
        return tables.joined([nothing], what.missing)
    last = np.flatnonzero(usable[-1])
    ends = [
        f"{number(float(what.values[-1, one]))} at step {whole(int(what.at[-1, one]))}"
        for one in (last[0], last[-1])
    ]
    low = float(what.values[-1, last].min())
    over = f"from {ends[0]} to {ends[1]}, lowest {number(low)}" if len(last) > 1 else ends[0]
    return tables.joined(
        [
            f"Spectrum of {layer_stage(what.layer, what.stage)} of {run_label(what.run)} over "
            f"steps: its smallest singular value over the largest is {over}."
        ],
        what.missing,
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
