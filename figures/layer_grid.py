"""One metric of every layer at every captured step of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import columns, tables
from optgeom.figures.arrays import (
    NO_FLOAT_CELLS,
    NO_INT_CELLS,
    Flags,
    Floats,
    Ints,
    extent,
    quantiles,
    small_whole,
    usual_low,
)
from optgeom.figures.block_numbers import block_numbers
from optgeom.figures.cells import Cells, cells
from optgeom.figures.columns import Columns
from optgeom.figures.empty import empty
from optgeom.figures.formats import hover_format, number, whole
from optgeom.figures.labels import LINE, note, spread
from optgeom.figures.names import by_kind, escape, layer_titles, run_label, shorten
from optgeom.figures.reading import Missing, Source, one_trace
from optgeom.figures.scales import Scale, bar, colours
from optgeom.figures.statuses import nothing_in
from optgeom.figures.steps import Span, drawn, reach, step_layout
from optgeom.figures.theme import Theme, ThemeName, theme_of
from optgeom.geometry.catalogue import metric_named

GAP = 6
LOWEST_ROW, HIGHEST_ROW = 4.0, 14.0
TALLEST = 840
ABOVE, BELOW, LEFT, RIGHT = 8, 44, 124, 16
# The room of block numbers.
NUMBERS = 30
# Rows times columns at which a figure stays below 0.8 MB.
CELLS = 256 * columns.MOST


class LayerMapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        run: the run.
        metric: the column.
        stage: the stage of the metric.
        kinds: per kind of layer, its layers' titles by depth.
        layers: the layers' names, a row each, in that order.
        columns: how the captures are laid out over steps.
        values: (rows, columns); NaN where there is none.
        at: the captured step that each value is of, -1 where there is none.
        extent: the smallest and largest value over all steps; None where there is none.
        usual: the value that one in twenty is below.
        ends: where the step axis begins and ends.
        span: the zoom; None for all steps.
        missing: what the run lacks.
    """

    run: str
    metric: str
    stage: str
    kinds: tuple[tuple[str, tuple[str, ...]], ...]
    layers: tuple[str, ...]
    columns: Columns
    values: Floats
    at: Ints
    extent: tuple[float, float] | None
    usual: float
    ends: Span
    span: Span | None
    missing: tuple[Missing, ...]


def info(
    source: Source, metric: str, *, stage: str = "update", span: Span | None = None
) -> LayerMapInfo:
    """Collect one metric of every layer.

    A layer whose turn has not come keeps its last value until it does. Above as many captures as
    there are columns, a cell shows the value farthest from the layer's median.

    Args:
        source: one run.
        metric: a column of the catalogue.
        stage: the stage of the metric.
        span: the first and last step shown; None for all. The colours are those of all steps.
    """
    trace = one_trace(source)
    every = cells(trace, metric, stage=stage)
    known = extent(every.values)
    if known is None:
        table = metric_named(metric).table
        absent = nothing_in(trace, title="any layer", stage=stage, table=table)
        return LayerMapInfo(
            trace.name,
            metric,
            stage,
            kinds=(),
            layers=(),
            columns=columns.NO_COLUMNS,
            values=NO_FLOAT_CELLS,
            at=NO_INT_CELLS,
            extent=None,
            usual=0.0,
            ends=reach([], span),
            span=span,
            missing=(absent,),
        )
    filled = np.flatnonzero(np.any(np.isfinite(every.values), axis=0)).tolist()
    held = {every.layers[column] for column in filled}
    layers = [layer for layer in trace.layers if layer.name in held]
    titles = layer_titles(layers)
    groups = by_kind(layers)
    names = tuple(one.name for group in groups.values() for one in group)
    place = {name: column for column, name in enumerate(every.layers)}
    order = np.array([place[name] for name in names], dtype=np.int64)
    steps = every.steps[every.captured.any(axis=1)]
    laid, values, at = _laid_out(every, order, span)
    return LayerMapInfo(
        trace.name,
        metric,
        stage,
        tuple((kind, tuple(titles[one.name] for one in group)) for kind, group in groups.items()),
        names,
        laid,
        values,
        at,
        known,
        usual_low(every.values) or 0.0,
        reach([steps], span),
        span,
        (),
    )


def _laid_out(every: Cells, order: Ints, span: Span | None) -> tuple[Columns, Floats, Ints]:
    """Return the columns, each cell's value and the step that it is of."""
    rows = np.flatnonzero(every.captured.any(axis=1))
    whole_run = np.ix_(rows, order)
    values, captured, steps = every.values[whole_run], every.captured[whole_run], every.steps[rows]
    kept = drawn(steps, span)
    if captured.all():
        shown, of = values[kept], np.broadcast_to(steps[kept, None], values[kept].shape)
    else:
        source = _held(captured, steps)[kept]
        there = np.maximum(source, 0)
        shown = np.where(source >= 0, np.take_along_axis(values, there, axis=0), np.nan)
        of = steps[there]
    most = max(8, min(columns.MOST, CELLS // len(order)))
    laid = columns.columns_of(steps[kept], most=most)
    scores = shown
    if (laid.stops - laid.starts).max(initial=0) > 1:
        scores = _from_median(shown, values)
    picked = columns.pick(scores.T, laid)
    found = columns.at(shown.T, picked)
    found = np.where(np.isfinite(found), found, np.nan)
    at = np.take_along_axis(of.T, np.maximum(picked, 0), axis=1)
    return laid, found, np.where(np.isfinite(found), at, -1)


def _from_median(shown: Floats, values: Floats) -> Floats:
    """Return how far each value is from its layer's median over all steps, in ratio if it can."""
    (middle,) = quantiles(values.T, 0.5)
    with np.errstate(invalid="ignore", divide="ignore"):
        if _logarithmic(extent(values)):
            far: Floats = np.abs(np.log(shown / middle))
        else:
            far = np.abs(shown - middle)
    return np.where(np.isfinite(shown), far, np.nan)


def _held(captured: Flags, steps: Ints) -> Ints:
    """Return, per step and layer, which capture a cell shows: its own, or the layer's last one.

    Layers that take turns are captured at different steps: each keeps its value until its next
    turn, if that comes about when it usually does; a layer that missed its turn is a gap.
    """
    count = len(steps)
    rows = np.arange(count)[:, None]
    last = np.maximum.accumulate(np.where(captured, rows, -1), axis=0)
    later = np.minimum.accumulate(np.where(captured, rows, count)[::-1], axis=0)[::-1]
    began = steps[np.maximum(last, 0)]
    before = np.vstack([np.full((1, captured.shape[1]), -1), last[:-1]])
    apart = np.where(captured & (before >= 0), steps[:, None] - steps[before], np.nan)
    (usual,) = quantiles(apart.T, 0.5)
    in_time = (later < count) & (steps[np.minimum(later, count - 1)] - began <= 1.5 * usual)
    held = captured | in_time | (steps[:, None] - began < 0.75 * usual)
    found: Ints = np.where((last >= 0) & held, last, -1)
    return found


def _logarithmic(known: tuple[float, float] | None) -> bool:
    return known is not None and known[0] > 0 and known[1] > 4 * known[0]


def shared_scale(infos: Iterable[LayerMapInfo]) -> Scale:
    """Return the colour scale of several runs side by side.

    It is logarithmic where no value is negative and they span more than a factor of 4; down to a
    quarter of what one in twenty is below, since the rest would have all the colours.
    """
    known = [(one.extent, one.usual) for one in infos if one.extent is not None]
    if not known:
        return Scale(0.0, 1.0, False)
    low, high = min(of[0] for of, _ in known), max(of[1] for of, _ in known)
    usual = min(one for _, one in known)
    if low >= 0 and 0 < 4 * usual < high:
        return Scale(max(low, usual / 4), high, True, low < usual / 4)
    return Scale(low, high, False)


def plot(
    what: LayerMapInfo,
    *,
    theme: Theme,
    cursor: int | None = None,
    scale: Scale | None = None,
    colorbar: bool = True,
    ends: Span | None = None,
    blocks: Mapping[str, int] | None = None,
) -> go.Figure:
    """Draw layer by step, kinds apart, depth downward.

    Args:
        what: the values.
        theme: the colours.
        cursor: the chosen step.
        scale: the colour scale, shared with other runs; by default that of this run.
        colorbar: False leaves the bar away, for a page that draws one of its own.
        ends: the step axis, shared with other runs; by default that of this run.
        blocks: from layers' names to block numbers, to be written beside the rows.
    """
    if what.extent is None:
        return empty(what.missing, theme)
    scale = scale or shared_scale([what])
    metric = metric_named(what.metric)
    edges, rows, tops = _rows(what)
    full = len(edges) - 1
    shape = (full, what.values.shape[1])
    z = np.full(shape, np.nan, np.float32)
    z[rows] = what.values
    of = np.zeros(shape, np.int64)
    of[rows] = np.maximum(what.at, 0)
    row = np.zeros(shape, np.int64)
    row[rows] = np.arange(len(rows))[:, None]
    titles = [title for _, members in what.kinds for title in members]
    digits = hover_format(*what.extent)
    data = [
        go.Heatmap(
            z=z,
            x=what.columns.edges,
            y=edges,
            customdata=small_whole(of, row),
            hoverongaps=False,
            hovertemplate="%{y}<br>step %{customdata[0]:,d}<br>"
            f"{escape(metric.title)} %{{z:{digits}}}<extra></extra>",
            showscale=False,
            **colours(scale, theme, "sequential"),
        )
    ]
    if colorbar:
        ticks = [(tick, number(tick)) for tick in scale.ticks()]
        if scale.below:
            ticks[0] = (ticks[0][0], f"{ticks[0][1]} or less")
        data.append(bar(scale, theme, "sequential", ticks=ticks, title=metric.title))
    top = 28 if colorbar else ABOVE
    numbers: list[dict[str, object]] = []
    if blocks is not None:
        members = [len(of) for _, of in what.kinds]
        known = [blocks.get(name) for name in what.layers]
        numbers = block_numbers(known, members, edges[rows], edges[rows + 1], theme=theme)
    aside = NUMBERS if numbers else 0
    height = max(160, round(edges[-1]) + top + BELOW)
    return go.Figure(
        data=data,
        layout=step_layout(
            theme,
            ends=ends if ends is not None and what.span is None else what.ends,
            cursor=cursor,
            over_cells=True,
            meta={"layers": what.layers},
            height=height,
            margin={"l": LEFT + aside, "r": 84 if colorbar else RIGHT, "t": top, "b": BELOW},
            hovermode="closest",
            yaxis={
                "range": [edges[-1], 0],
                "fixedrange": True,
                "showgrid": False,
                "zeroline": False,
                "showticklabels": False,
                # The hover names a row by its tick, so that no cell carries a string.
                "tickvals": (edges[rows] + edges[rows + 1]) / 2,
                "ticktext": [escape(title) for title in titles],
                "ticks": "",
            },
            annotations=[
                *_kinds(tops, float(edges[-1]), height - top - BELOW, theme, aside=aside),
                *numbers,
            ],
        ),
    )


def _rows(what: LayerMapInfo) -> tuple[Floats, Ints, list[tuple[str, float]]]:
    """Return the rows' edges in pixels, which rows are layers, and where each kind begins."""
    gaps = GAP * (len(what.kinds) - 1)
    row = min(HIGHEST_ROW, max(LOWEST_ROW, (TALLEST - gaps) / len(what.layers)))
    edges, tops = [0.0], []
    rows: list[int] = []
    for kind, members in what.kinds:
        if rows:
            edges.append(edges[-1] + GAP)
        tops.append((kind, edges[-1] + min(row, LINE) / 2))
        for _ in members:
            rows.append(len(edges) - 1)
            edges.append(edges[-1] + row)
    return np.array(edges), np.array(rows, dtype=np.int64), tops


def _kinds(
    tops: list[tuple[str, float]], total: float, height: float, theme: Theme, *, aside: int
) -> list[dict[str, object]]:
    """Write the kinds at the left, each at its first row, moved apart where they collide."""
    places = spread([top / total for _, top in tops], LINE / height)
    return [
        note(
            escape(shorten(kind, 17)),
            theme,
            x=0,
            xref="paper",
            xanchor="right",
            xshift=-8 - aside,
            y=1 - place,
            yref="paper",
            yanchor="middle",
        )
        for (kind, _), place in zip(tops, places, strict=True)
    ]


def table(what: LayerMapInfo) -> pa.Table:
    """Return the figure's data: a row per drawn cell of the span that holds a number."""
    names = {"run": pa.string(), "layer": pa.string(), "stage": pa.string(), "step": pa.int64()}
    schema = names | {what.metric: pa.float64()}
    rows, places = np.nonzero(columns.usable(what.values, what.at, what.span))
    layers = [what.layers[row] for row in rows.tolist()]
    each = [what.run, layers, what.stage, what.at[rows, places], what.values[rows, places]]
    parts = [dict(zip(schema, each, strict=True))] if len(rows) else []
    return tables.stacked(parts, schema)


def words(what: LayerMapInfo) -> str:
    """Return the figure in two sentences: how many layers, where the extremes are."""
    usable = columns.usable(what.values, what.at, what.span)
    if not usable.any():
        nothing = "" if what.missing else f"{run_label(what.run)} has no number in these steps."
        return tables.joined([nothing], what.missing)
    titles = [title for _, members in what.kinds for title in members]
    metric = metric_named(what.metric).title
    stage = "" if what.stage == "update" else f" ({what.stage.replace('_', ' ')})"
    ends = [
        np.unravel_index(flat, usable.shape)
        for flat in (
            np.where(usable, what.values, np.inf).argmin(),
            np.where(usable, what.values, -np.inf).argmax(),
        )
    ]
    low, high = (
        f"{number(float(what.values[at]))} ({titles[at[0]]}, step {whole(int(what.at[at]))})"
        for at in ends
    )
    steps = what.at[usable]
    return tables.joined(
        [
            f"{metric}{stage} of {whole(len(what.layers))} layers of {run_label(what.run)} "
            f"from step {whole(int(steps.min()))} to {whole(int(steps.max()))}.",
            f"Smallest {low}, largest {high}.",
        ],
        what.missing,
    )


def layer_map(
    trace: Source,
    metric: str = "neuron_norm_cv",
    *,
    stage: str = "update",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw one metric of every layer at every captured step, kinds of layers apart.

    A kind's layers are in the order of depth; the numbers beside them are those of their blocks.

    Args:
        trace: one run, or a source of exactly one.
        metric: a column of the catalogue.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there are several runs, or the theme is unknown.
    """
    blocks = {one.name: one.block for one in one_trace(trace).layers if one.block is not None}
    return plot(info(trace, metric, stage=stage), theme=theme_of(theme), blocks=blocks)
