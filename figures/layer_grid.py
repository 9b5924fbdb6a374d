"""One metric of every layer at every captured step of one run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from optgeom.figures.empty import empty
from optgeom.figures.formats import number
from optgeom.figures.labels import note
from optgeom.figures.names import by_kind, escape, layer_titles
from optgeom.figures.reading import Missing, Source, numbers_of, one_trace
from optgeom.figures.statuses import nothing_in
from optgeom.figures.theme import SEQUENTIAL, Theme, ThemeName, axis, layout, theme_of
from optgeom.geometry.catalogue import metric_named

ROW = 14
GAP = 6


class LayerMapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        metric: the column.
        steps: captured steps.
        kinds: per kind of layer, its layers' titles by depth.
        values: a row per layer, in that order; None where a step has none.
        missing: what the run lacks.
    """

    metric: str
    steps: tuple[int, ...]
    kinds: tuple[tuple[str, tuple[str, ...]], ...]
    values: tuple[tuple[float | None, ...], ...]
    missing: tuple[Missing, ...]


def info(source: Source, metric: str, *, stage: str = "update") -> LayerMapInfo:
    """Collect one metric of every layer.

    Args:
        source: one run.
        metric: a column of the catalogue.
        stage: the stage of the metric.
    """
    trace = one_trace(source)
    absent = nothing_in(trace, title="any layer", stage=stage, table=metric_named(metric).table)
    if stage not in trace.stages:
        return LayerMapInfo(metric, (), (), (), (absent,))
    table = trace.metrics(stages=[stage])
    numbers = numbers_of(table, metric)
    if not np.isfinite(numbers).any():
        return LayerMapInfo(metric, (), (), (), (absent,))
    at = np.asarray(table.column("step").to_numpy())
    names = table.column("layer").to_pylist()
    steps = np.unique(at[np.isfinite(numbers)])
    column = {int(step): place for place, step in enumerate(steps)}
    filled: dict[str, list[float | None]] = {}
    for place in np.flatnonzero(np.isfinite(numbers)):
        row = filled.setdefault(names[place], [None] * len(steps))
        row[column[int(at[place])]] = float(numbers[place])
    layers = [layer for layer in trace.layers if layer.name in filled]
    titles = layer_titles(layers)
    groups = by_kind(layers)
    return LayerMapInfo(
        metric,
        tuple(int(step) for step in steps),
        tuple((kind, tuple(titles[one.name] for one in group)) for kind, group in groups.items()),
        tuple(tuple(filled[one.name]) for group in groups.values() for one in group),
        (),
    )


def plot(what: LayerMapInfo, *, theme: Theme) -> go.Figure:
    """Draw layer by step, kinds apart, depth downward; logarithmic where the values allow it."""
    if not what.values:
        return empty(what.missing, theme)
    known = [value for row in what.values for value in row if value is not None]
    logarithmic = min(known) > 0 and max(known) > 4 * min(known)

    def scale(value: float) -> float:
        return float(np.log10(value)) if logarithmic else value

    low, high = scale(min(known)), scale(max(known))
    ticks = np.linspace(low, high, 5).tolist() if high > low else [low]
    data, notes, tops, place, row = [], [], [], 0.0, 0
    for kind, titles in what.kinds:
        tops.append((kind, place))
        block = what.values[row : row + len(titles)]
        data.append(
            go.Heatmap(
                z=[
                    [None if value is None else scale(value) for value in values]
                    for values in block
                ],
                x=[f"{step:,}" for step in what.steps],
                y=[place + i + 0.5 for i in range(len(titles))],
                text=[
                    [f"{escape(title)}<br>{number(value)}" for value in values]
                    for title, values in zip(titles, block, strict=True)
                ],
                hovertemplate="step %{x}<br>%{text}<extra></extra>",
                coloraxis="coloraxis",
            )
        )
        place += len(titles) + GAP / ROW
        row += len(titles)
    for kind, top in tops:
        notes.append(
            note(escape(kind), theme, x=0, xref="paper", xanchor="right", xshift=-8, y=top + 0.5)
        )
    metric = metric_named(what.metric)
    return go.Figure(
        data=data,
        layout=layout(
            theme,
            height=round(place * ROW) + 72,
            margin={"l": 110, "r": 84, "t": 24, "b": 44},
            hovermode="closest",
            xaxis=axis(theme, title="step", horizontal=True, type="category", nticks=8),
            yaxis={"range": [place, 0], "visible": False, "fixedrange": True},
            coloraxis={
                "colorscale": SEQUENTIAL,
                "cmin": low,
                "cmax": high if high > low else low + 1,
                "colorbar": {
                    "title": {"text": metric.title, "font": {"size": 12, "color": theme.muted}},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "tickvals": ticks,
                    "ticktext": [number(10.0**t if logarithmic else t) for t in ticks],
                    "tickfont": {"size": 12, "color": theme.muted},
                },
            },
            annotations=notes,
        ),
    )


def layer_map(
    trace: Source,
    metric: str = "neuron_norm_cv",
    *,
    stage: str = "update",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw one metric of every layer at every captured step, kinds of layers apart.

    Args:
        trace: one run, or a source of exactly one.
        metric: a column of the catalogue.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there are several runs, or the theme is unknown.
    """
    return plot(info(trace, metric, stage=stage), theme=theme_of(theme))
