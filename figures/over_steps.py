"""One metric of one layer over the captured steps, its kind's quartiles behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from optgeom.figures.empty import empty
from optgeom.figures.formats import bound
from optgeom.figures.labels import EndLabel, end_labels, margin_for
from optgeom.figures.names import escape, layer_title, run_label, run_short
from optgeom.figures.reading import (
    Missing,
    Source,
    as_traces,
    find_layer,
    numbers_of,
    slot_map,
    texts_of,
)
from optgeom.figures.statuses import explained, nothing_in
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, layout, theme_of
from optgeom.geometry.catalogue import metric_named

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

FEW = 30


class MetricCurve(NamedTuple):
    """One run's metric over steps.

    Attributes:
        run: the run.
        slot: its colour slot.
        steps: captured steps.
        values: the layer's values, NaN-free; None where a step has none (a gap stays a gap).
        bounds: True where the value is only a lower bound.
        low: the first quartile over the layers of the same kind.
        high: the third quartile.
    """

    run: str
    slot: int
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    bounds: tuple[bool, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class MetricInfo(NamedTuple):
    """What the figure draws."""

    title: str
    metric: str
    logarithmic: bool
    curves: tuple[MetricCurve, ...]
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    layer: str,
    metric: str,
    *,
    stage: str = "update",
    slots: Mapping[str, int] | None = None,
) -> MetricInfo:
    """Collect one metric of one layer over all captured steps.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        metric: a column of the catalogue.
        stage: the stage of the metric.
        slots: colour slot per run; by default decided from these traces.
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
    values = [value for curve in curves for value in curve.values if value is not None]
    spans = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    return MetricInfo(title, metric, spans, tuple(curves), tuple(missing))


def _curve(
    trace: Trace, layer: str, kind: str, metric: str, stage: str, slot: int
) -> MetricCurve | None:
    if stage not in trace.stages:
        return None
    names = [one.name for one in trace.layers if one.kind == kind]
    if layer not in names:
        return None
    table = trace.metrics(stages=[stage], layers=names)
    numbers = numbers_of(table, metric)
    at = np.asarray(table.column("step").to_numpy())
    own = np.asarray([name == layer for name in table.column("layer").to_pylist()], dtype=bool)
    if not np.isfinite(numbers[own]).any():
        return None
    floors = [text == "at_floor" for text in texts_of(table, "spectrum_status")]
    own &= np.isfinite(numbers) | explained(table, metric_named(metric).table)
    steps = np.unique(at[own])
    value = {int(at[i]): (float(numbers[i]), floors[i]) for i in np.flatnonzero(own)}
    quartiles = [_quartiles(numbers[at == step]) for step in steps]
    limited = metric == "condition_number"
    return MetricCurve(
        trace.name,
        slot,
        tuple(int(step) for step in steps),
        tuple(_known(value[int(step)][0]) for step in steps),
        tuple(limited and value[int(step)][1] for step in steps),
        tuple(low for low, _ in quartiles),
        tuple(high for _, high in quartiles),
    )


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _quartiles(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    present = values[np.isfinite(values)]
    if not present.size:
        return None, None
    low, high = np.percentile(present, [25, 75])
    return float(low), float(high)


def plot(
    what: MetricInfo, *, theme: Theme, height: int = HEIGHT, cursor: int | None = None
) -> go.Figure:
    """Draw the layer bold, the band of its kind behind, a thin cursor at a step."""
    if not what.curves:
        return empty(what.missing, theme, height=height)
    known = [
        value
        for curve in what.curves
        for values in (curve.values, curve.low, curve.high)
        for value in values
        if value is not None
    ]
    low, high = min(known), max(known)
    if what.logarithmic and low > 0:
        span = (np.log10(low) - 0.05, np.log10(high) + 0.05)
    else:
        pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        span = (low - pad, high + pad)
    metric = metric_named(what.metric)
    kind = "log" if what.logarithmic and low > 0 else "linear"
    data: list[go.Scatter] = []
    ends: list[EndLabel] = []
    for curve in what.curves:
        data += [_band(curve, theme), _line(curve, theme)]
        last = next((value for value in reversed(curve.values) if value is not None), None)
        if last is not None:
            place = np.log10(last) if kind == "log" else last
            at = float((place - span[0]) / (span[1] - span[0]))
            ends.append(EndLabel(run_short(curve.run), theme.run(curve.slot), at))
    steps = [step for curve in what.curves for step in curve.steps]
    first, final = min(steps), max(steps)
    return go.Figure(
        data=data,
        layout=layout(
            theme,
            height=height,
            right=margin_for([label.text for label in ends]),
            annotations=end_labels(ends, plot_height=height - 48),
            shapes=[] if cursor is None else [_cursor(cursor, theme)],
            xaxis=axis(theme, title="step", horizontal=True, tickformat=",d", nticks=8)
            | {"range": [first, final if final > first else first + 1]}
            | {"unifiedhovertitle": {"text": "step %{x:,d}"}}
            | crosshair(theme),
            yaxis=axis(theme, title=metric.title, horizontal=False, type=kind, range=list(span))
            | ({"exponentformat": "power", "dtick": "D2"} if kind == "log" else {"nticks": 6}),
        ),
    )


def _band(curve: MetricCurve, theme: Theme) -> go.Scatter:
    pairs = [
        (step, low, high)
        for step, low, high in zip(curve.steps, curve.low, curve.high, strict=True)
        if low is not None and high is not None
    ]
    return go.Scatter(
        x=[step for step, _, _ in pairs] + [step for step, _, _ in reversed(pairs)],
        y=[high for _, _, high in pairs] + [low for _, low, _ in reversed(pairs)],
        mode="none",
        fill="toself",
        fillcolor=translucent(theme.run(curve.slot), 0.14),
        hoverinfo="skip",
    )


def _line(curve: MetricCurve, theme: Theme) -> go.Scatter:
    name = escape(run_label(curve.run))
    hollow = any(curve.bounds)
    return go.Scatter(
        x=curve.steps,
        y=curve.values,
        mode="lines+markers" if len(curve.steps) <= FEW or hollow else "lines",
        name=name,
        connectgaps=False,
        text=[bound(v, is_bound=b) for v, b in zip(curve.values, curve.bounds, strict=True)],
        hovertemplate=f"{name} %{{text}}<extra></extra>",
        line={"color": theme.run(curve.slot), "width": 2},
        marker={
            "size": 7,
            "symbol": ["circle-open" if b else "circle" for b in curve.bounds],
        },
    )


def _cursor(step: int, theme: Theme) -> dict[str, object]:
    line = {"color": theme.reference, "width": 1}
    return {"type": "line", "x0": step, "x1": step, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def translucent(color: str, share: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity.

    >>> translucent("#1F5FBF", 0.14)
    'rgba(31,95,191,0.14)'
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


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
