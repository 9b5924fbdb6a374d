"""One metric of one layer over the captured steps, its kind's quartiles behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import tables
from optgeom.figures.arrays import Flags, Floats, Ints, extent, quantiles, usual_low
from optgeom.figures.cells import cells
from optgeom.figures.empty import empty
from optgeom.figures.formats import bound, hover_format, number, whole
from optgeom.figures.labels import EndLabel, end_labels, margin_for
from optgeom.figures.names import escape, layer_stage, layer_title, run_label, run_short
from optgeom.figures.reading import Missing, Source, as_traces, find_layer, slot_map
from optgeom.figures.scales import Scale
from optgeom.figures.statuses import nothing_in
from optgeom.figures.steps import Span, drawn, inside, reach, step_layout
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, theme_of
from optgeom.figures.thin import MOST, thinned, thinned_band
from optgeom.geometry.catalogue import metric_named

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

FEW = 30
AT_LEAST = "\N{GREATER-THAN OR EQUAL TO} "


class MetricCurve(NamedTuple):
    """One run's metric over steps.

    Attributes:
        run: the run.
        slot: its colour slot.
        steps: the captured steps of the span and one beyond either end.
        values: the layer's values; NaN where a captured step has none (a gap stays a gap).
        bounds: True where the value is only a lower bound.
        low: the first quartile over the layers of the same kind, NaN where there is none.
        high: the third quartile.
    """

    run: str
    slot: int
    steps: Ints
    values: Floats
    bounds: Flags
    low: Floats
    high: Floats


class MetricInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        layer: the layer.
        metric: the column.
        stage: the stage of the metric.
        logarithmic: whether the values span more than a factor of 20, one in twenty aside.
        curves: one per run that has a number.
        extent: the smallest and largest value over all steps, bands included; where it is
            logarithmic, no lower than a tenth of what one in twenty is below.
        ends: where the step axis begins and ends.
        span: the zoom; None for all steps.
        missing: what runs lack.
    """

    title: str
    layer: LayerInfo
    metric: str
    stage: str
    logarithmic: bool
    curves: tuple[MetricCurve, ...]
    extent: tuple[float, float]
    ends: Span
    span: Span | None
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    layer: str,
    metric: str,
    *,
    stage: str = "update",
    slots: Mapping[str, int] | None = None,
    span: Span | None = None,
) -> MetricInfo:
    """Collect one metric of one layer over the captured steps.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        metric: a column of the catalogue.
        stage: the stage of the metric.
        slots: colour slot per run; by default decided from these traces.
        span: the first and last step shown; None for all. The value axis is that of all steps.
    """
    shown = as_traces(traces)
    table = metric_named(metric).table
    described = find_layer(shown, layer)
    title = layer_title(described)
    colours = slot_map(shown, slots)
    curves, missing = [], []
    for trace in shown:
        curve = _curve(trace, layer, described.kind, metric, stage, colours.get(trace.name, 99))
        if curve is None:
            missing.append(nothing_in(trace, title=title, stage=stage, table=table, layer=layer))
        else:
            curves.append(curve)
    own = [curve.values for curve in curves]
    everything = extent(*(part for one in curves for part in (one.values, one.low, one.high)))
    low, high = everything or (0.0, 1.0)
    usual, top = usual_low(*own), extent(*own)
    logarithmic = low >= 0 and usual is not None and top is not None and 0 < 20 * usual < top[1]
    if logarithmic and usual is not None:
        low = max(low, usual / 10)
    return MetricInfo(
        title,
        described,
        metric,
        stage,
        logarithmic,
        tuple(_within(curve, span) for curve in curves),
        (low, high),
        reach((curve.steps for curve in curves), span),
        span,
        tuple(missing),
    )


def _curve(
    trace: Trace, layer: str, kind: str, metric: str, stage: str, slot: int
) -> MetricCurve | None:
    if stage not in trace.stages:
        return None
    names = [one.name for one in trace.layers if one.kind == kind]
    if layer not in names:
        return None
    found = cells(trace, metric, stage=stage, layers=names)
    mine = names.index(layer)
    numbers = found.values[:, mine]
    if not np.isfinite(numbers).any():
        return None
    # A captured step that says why it has no number breaks the line; one not due does not.
    rows = np.isfinite(numbers) | found.said.explained[:, mine]
    low, high = quantiles(found.values[rows], 0.25, 0.75)
    return MetricCurve(
        trace.name,
        slot,
        found.steps[rows],
        np.where(np.isfinite(numbers), numbers, np.nan)[rows],
        found.bounds[rows, mine],
        low,
        high,
    )


def _within(curve: MetricCurve, span: Span | None) -> MetricCurve:
    kept = drawn(curve.steps, span)
    return MetricCurve(
        curve.run,
        curve.slot,
        curve.steps[kept],
        curve.values[kept],
        curve.bounds[kept],
        curve.low[kept],
        curve.high[kept],
    )


def plot(
    what: MetricInfo, *, theme: Theme, height: int = HEIGHT, cursor: int | None = None
) -> go.Figure:
    """Draw the layer bold, the band of its kind behind, a thin cursor at a step."""
    if not what.curves:
        return empty(what.missing, theme, height=height)
    low, high = what.extent
    logarithmic = what.logarithmic
    if logarithmic:
        ends = (float(np.log10(low)) - 0.05, float(np.log10(high)) + 0.05)
    else:
        pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        ends = (low - pad, high + pad)
    data: list[go.Scatter] = []
    labels: list[EndLabel] = []
    for curve in what.curves:
        data += [_band(curve, theme), _line(curve, what, theme)]
        known = curve.values[inside(curve.steps, what.span) & np.isfinite(curve.values)]
        if known.size:
            place = np.log10(known[-1]) if logarithmic else known[-1]
            at = float((place - ends[0]) / (ends[1] - ends[0]))
            labels.append(EndLabel(run_short(curve.run), theme.run(curve.slot), at))
    scale: dict[str, object] = {"nticks": 6}
    if logarithmic:
        ticks = Scale(10.0 ** ends[0], 10.0 ** ends[1], True).ticks()
        scale = {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}
    return go.Figure(
        data=data,
        layout=step_layout(
            theme,
            ends=what.ends,
            cursor=cursor,
            height=height,
            right=margin_for([run_short(curve.run) for curve in what.curves]),
            annotations=end_labels(labels, plot_height=height - 48),
            x={"unifiedhovertitle": {"text": "step %{x:,d}"}} | crosshair(theme),
            yaxis=axis(
                theme,
                title=metric_named(what.metric).title,
                horizontal=False,
                type="log" if logarithmic else "linear",
                range=list(ends),
                **scale,
            ),
        ),
    )


def _band(curve: MetricCurve, theme: Theme) -> go.Scatter:
    known = np.isfinite(curve.low) & np.isfinite(curve.high)
    x: list[Ints] = []
    y: list[Floats] = []
    # Where a captured step has no number of the whole kind, the band breaks as the line does.
    for part in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known)) + 1):
        if known[part].any():
            most = max(2, MOST * len(part) // (2 * len(known)))
            at, low, high = thinned_band(
                curve.steps[part], curve.low[part], curve.high[part], most=most
            )
            x += [at, at[::-1], at[:1]]
            y += [high, low[::-1], np.array([np.nan])]
    return go.Scatter(
        x=np.concatenate(x)[:-1] if x else [],
        y=np.concatenate(y)[:-1].astype(np.float32) if y else [],
        mode="none",
        fill="toself",
        fillcolor=translucent(theme.run(curve.slot), 0.14),
        hoverinfo="skip",
    )


def _line(curve: MetricCurve, what: MetricInfo, theme: Theme) -> go.Scatter:
    name = escape(run_label(curve.run))
    kept = thinned(curve.values, flags=curve.bounds)
    values, bounds = curve.values[kept], curve.bounds[kept]
    few = len(curve.steps) <= FEW
    hollow = bool(bounds.any())
    marker: dict[str, object] = {"size": 7}
    if hollow:
        marker["symbol"] = np.where(bounds, "circle-open", "circle").tolist()
        # Of many captures only the bounds are marked: dots on all of them would be a thick line.
        marker["size"] = 7 if few else np.where(bounds, 7, 0).astype(np.uint8)
    digits = hover_format(*what.extent)
    return go.Scatter(
        x=curve.steps[kept],
        y=values.astype(np.float32),
        mode="lines+markers" if few or hollow else "lines",
        name=name,
        connectgaps=False,
        text=[AT_LEAST if one else "" for one in bounds.tolist()] if hollow else None,
        hovertemplate=f"{name} {'%{text}' if hollow else ''}%{{y:{digits}}}<extra></extra>",
        line={"color": theme.run(curve.slot), "width": 2},
        marker=marker,
    )


def translucent(color: str, share: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity.

    >>> translucent("#1F5FBF", 0.14)
    'rgba(31,95,191,0.14)'
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def table(what: MetricInfo) -> pa.Table:
    """Return the figure's data: a row per run and captured step of the span."""
    columns = {
        "run": pa.string(),
        "layer": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        what.metric: pa.float64(),
        "is a lower bound": pa.bool_(),
        "first quartile of the kind": pa.float64(),
        "third quartile of the kind": pa.float64(),
    }
    parts = []
    for curve in what.curves:
        kept = inside(curve.steps, what.span)
        of = [curve.run, what.layer.name, what.stage]
        each = [part[kept] for part in curve[2:]]
        parts.append(dict(zip(columns, [*of, *each], strict=True)))
    return tables.stacked(parts, columns)


def words(what: MetricInfo) -> str:
    """Return the figure in a sentence per run."""
    title = metric_named(what.metric).title
    said = [f"{title} of {layer_stage(what.layer, what.stage)} over steps."] if what.curves else []
    return tables.joined([*said, *(_said(one, what) for one in what.curves)], what.missing)


def _said(curve: MetricCurve, what: MetricInfo) -> str:
    kept = inside(curve.steps, what.span)
    steps, values, bounds = curve.steps[kept], curve.values[kept], curve.bounds[kept]
    known = np.flatnonzero(np.isfinite(values))
    run = run_label(curve.run)
    if not known.size:
        return f"{run} has no number in these steps."
    ends = [
        f"{bound(float(values[one]), is_bound=bool(bounds[one]))} at step {whole(int(steps[one]))}"
        for one in (known[0], known[-1])
    ]
    gaps = len(values) - known.size
    broken = f", {whole(gaps)} captured steps without a number" if gaps else ""
    if known.size == 1:
        return f"{run}: {ends[0]}{broken}."
    low, high = known[values[known].argmin()], known[values[known].argmax()]
    least, most = (bound(float(values[i]), is_bound=bool(bounds[i])) for i in (low, high))
    return f"{run}: from {ends[0]} to {ends[1]}, between {least} and {most}{broken}."


def metric_over_steps(
    traces: Source,
    layer: str,
    metric: str = "neuron_norm_cv",
    *,
    stage: str = "update",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw one metric of one layer over the captured steps, one line per run.

    The band behind spans the quartiles over all layers of the same kind. The axis is logarithmic
    where the values are positive and span more than a factor of 20.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        metric: a column of the catalogue.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if no trace has the layer, or the theme is unknown.
    """
    return plot(info(traces, layer, metric, stage=stage), theme=theme_of(theme))
