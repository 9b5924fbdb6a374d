"""A dumbbell per layer: where in the network do two runs differ?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import tables
from optgeom.figures.arrays import extent
from optgeom.figures.cells import cells, newest
from optgeom.figures.empty import empty
from optgeom.figures.formats import nice, number, short, whole
from optgeom.figures.labels import note
from optgeom.figures.names import by_kind, escape, layer_titles, run_label, run_short
from optgeom.figures.reading import (
    Missing,
    Source,
    as_traces,
    at_or_before,
    slot_map,
)
from optgeom.figures.statuses import nothing_in
from optgeom.figures.theme import Theme, ThemeName, axis, layout, theme_of
from optgeom.geometry.catalogue import metric_named

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

ROW = 22


class PairRow(NamedTuple):
    """One layer's value in each run and its captured step, None where there is none."""

    layer: str
    title: str
    values: tuple[float | None, ...]
    steps: tuple[int | None, ...]


class PairGroup(NamedTuple):
    """The layers of one kind, by depth, and the median over them per run."""

    kind: str
    medians: tuple[float | None, ...]
    rows: tuple[PairRow, ...]


class LayerPairsInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        metric: the column.
        stage: the stage of the metric.
        runs: the runs' names, in the order of each row's values.
        slots: their colour slots.
        steps: the step that each run's values are of, None where it has none.
        groups: kinds of layers in the order of a forward pass.
        maximum: the axis goes from 0 to here, fixed over all captured steps.
        missing: what runs lack.
    """

    metric: str
    stage: str
    runs: tuple[str, ...]
    slots: tuple[int, ...]
    steps: tuple[int | None, ...]
    groups: tuple[PairGroup, ...]
    maximum: float
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    *,
    step: int | None = None,
    stage: str = "update",
    metric: str = "neuron_norm_cv",
    slots: Mapping[str, int] | None = None,
) -> LayerPairsInfo:
    """Collect one metric of every layer in each run.

    Args:
        traces: one trace or several (the first two span the dumbbell).
        step: the captured step, or the nearest earlier one per layer; None for the last.
        stage: the stage of the metric.
        metric: a column of the catalogue.
        slots: colour slot per run; by default decided from these traces.
    """
    shown = as_traces(traces)
    table = metric_named(metric).table
    colours = slot_map(shown, slots)
    missing: list[Missing] = []
    found: list[dict[str, tuple[float, int]]] = []
    steps: list[int | None] = []
    maximum = 0.0
    for trace in shown:
        at, values, top = _values(trace, stage, metric, step)
        if not values:
            missing.append(nothing_in(trace, title="any layer", stage=stage, table=table))
        found.append(values)
        steps.append(at)
        maximum = max(maximum, top)
    layers = {layer.name: layer for trace in shown for layer in trace.layers}
    titles = layer_titles(layers.values())
    groups = []
    for kind, members in by_kind(layers.values()).items():
        rows = tuple(_row(one.name, titles[one.name], found) for one in members)
        medians = tuple(_median([row.values[place] for row in rows]) for place in range(len(shown)))
        groups.append(PairGroup(kind, medians, rows))
    return LayerPairsInfo(
        metric,
        stage,
        tuple(trace.name for trace in shown),
        tuple(colours.get(trace.name, 99) for trace in shown),
        tuple(steps),
        tuple(groups),
        nice(maximum),
        tuple(missing),
    )


def _values(
    trace: Trace, stage: str, metric: str, step: int | None
) -> tuple[int | None, dict[str, tuple[float, int]], float]:
    """Return the step, each layer's value and its step, and the largest of all captures."""
    every = cells(trace, metric, stage=stage)
    top = extent(every.values)
    if top is None:
        return None, {}, 0.0
    # A captured cell without a number has none here: an earlier step's would be a stale one.
    now = newest(every, step)
    usable = np.flatnonzero(np.isfinite(now.values)).tolist()
    found = {now.layers[one]: (float(now.values[one]), int(now.steps[one])) for one in usable}
    known = every.steps[every.captured.any(axis=1)].tolist()
    return at_or_before(known, step), found, top[1]


def _row(layer: str, title: str, found: Sequence[Mapping[str, tuple[float, int]]]) -> PairRow:
    each = [values.get(layer) for values in found]
    return PairRow(
        layer,
        title,
        tuple(None if one is None else one[0] for one in each),
        tuple(None if one is None else one[1] for one in each),
    )


def _median(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.median(present)) if present else None


def plot(what: LayerPairsInfo, *, theme: Theme) -> go.Figure:
    """Draw one row per layer, a dot per run, a line between the first two."""
    groups = [group for group in what.groups if group.rows]
    count = sum(1 + len(group.rows) for group in groups)
    if not any(value is not None for group in groups for row in group.rows for value in row.values):
        return empty(what.missing, theme)
    notes, lines_x, lines_y = [], [], []
    dots: list[tuple[list[float], list[float], list[str]]] = [([], [], []) for _ in what.runs]
    place = 0.0
    for group in groups:
        medians = " | ".join(short(value) for value in group.medians)
        head = f"<b>{escape(group.kind)}</b>  median {medians}"
        notes.append(note(head, theme, x=0, xref="paper", xanchor="left", xshift=-244, y=place))
        for row in group.rows:
            place += 1
            label = escape(row.title)
            notes.append(
                note(label, theme, x=0, xref="paper", xanchor="left", y=place, xshift=-232)
            )
            pair = [value for value in row.values[:2] if value is not None]
            if len(pair) == 2:
                lines_x += [*pair, None]
                lines_y += [place, place, None]
            for run, value in enumerate(row.values):
                if value is not None:
                    dots[run][0].append(value)
                    dots[run][1].append(place)
                    text = f"{escape(row.layer)}<br>{escape(run_label(what.runs[run]))}"
                    dots[run][2].append(f"{text} {number(value)}")
        place += 1
    notes += _run_labels(what, groups, theme)
    link = go.Scatter(
        x=lines_x,
        y=lines_y,
        mode="lines",
        line={"color": theme.reference, "width": 1.5},
        hoverinfo="skip",
    )
    points = [
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            text=text,
            name=escape(run_label(run)),
            hovertemplate="%{text}<extra></extra>",
            marker={"color": theme.run(slot), "size": 9, "symbol": symbol},
        )
        for (x, y, text), run, slot, symbol in zip(
            dots, what.runs, what.slots, _symbols(len(what.runs)), strict=True
        )
    ]
    metric = metric_named(what.metric)
    return go.Figure(
        data=[link, *points],
        layout=layout(
            theme,
            height=count * ROW + 80,
            margin={"l": 260, "r": 24, "t": 32, "b": 44},
            hovermode="closest",
            xaxis=axis(
                theme,
                title=metric.title,
                horizontal=True,
                range=[0, what.maximum * 1.04],
                showgrid=True,
                nticks=6,
            ),
            yaxis={"visible": False, "range": [count - 0.5, -0.7], "fixedrange": True},
            annotations=notes,
        ),
    )


def _symbols(count: int) -> list[str]:
    """Return marker symbols: A hollow, B filled, so that a greyscale print still tells."""
    if count == 1:
        return ["circle"]
    return [("circle-open", "circle", "diamond", "square-open")[min(i, 3)] for i in range(count)]


def _run_labels(
    what: LayerPairsInfo, groups: list[PairGroup], theme: Theme
) -> list[dict[str, object]]:
    """Label the dots of the first full row with the runs' names, above it."""
    text = "   ".join(
        f'<span style="color:{theme.run(slot)}">{mark} {escape(run_short(run, limit=32))}</span>'
        for run, slot, mark in zip(what.runs, what.slots, _marks(len(what.runs)), strict=True)
    )
    place: dict[str, object] = {"x": 0, "xref": "paper", "y": 1, "yref": "paper"}
    return (
        [note(text, theme, **place, xanchor="left", yanchor="bottom", yshift=6)] if groups else []
    )


def _marks(count: int) -> list[str]:
    if count == 1:
        return ["\N{BLACK CIRCLE}"]
    marks = ("\N{WHITE CIRCLE}", "\N{BLACK CIRCLE}", "\N{BLACK DIAMOND}", "\N{WHITE SQUARE}")
    return [marks[min(i, 3)] for i in range(count)]


def table(what: LayerPairsInfo) -> pa.Table:
    """Return the figure's data: a row per layer and run that has a number."""
    schema = {
        "run": pa.string(),
        "layer": pa.string(),
        "kind": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        what.metric: pa.float64(),
    }
    found = [
        [run, row.layer, group.kind, what.stage, row.steps[place], row.values[place]]
        for group in what.groups
        for row in group.rows
        for place, run in enumerate(what.runs)
        if row.values[place] is not None
    ]
    each = [list(column) for column in zip(*found, strict=True)]
    return tables.stacked([dict(zip(schema, each, strict=True))] if found else [], schema)


def words(what: LayerPairsInfo) -> str:
    """Return the figure in sentences: each run's median, and where two runs differ most."""
    metric = metric_named(what.metric).title
    rows = [row for group in what.groups for row in group.rows]
    said = []
    for place, run in enumerate(what.runs):
        values = [row.values[place] for row in rows]
        median = _median(values)
        if median is not None:
            count = sum(value is not None for value in values)
            of = f"{whole(count)} layers" if count != 1 else "1 layer"
            step = what.steps[place]
            at = "" if step is None else f" at step {whole(step)}"
            said.append(f"{run_label(run)}{at}: median {short(median)} over {of}.")
    widest = _widest(rows) if len(what.runs) > 1 else None
    if widest is not None:
        first, second = (
            f"{run_label(run)} {number(value)}"
            for run, value in zip(what.runs[:2], widest.values[:2], strict=True)
        )
        said.append(f"They differ most in {widest.title}: {first}, {second}.")
    stage = "" if what.stage == "update" else f" ({what.stage.replace('_', ' ')})"
    heading = f"{metric}{stage} of every layer." if said else ""
    return tables.joined([heading, *said], what.missing)


def _widest(rows: Sequence[PairRow]) -> PairRow | None:
    """Return the layer at which the first two runs have the largest ratio."""
    ratios = {
        row.layer: max(one, other) / min(one, other)
        for row in rows
        for one, other in [row.values[:2]]
        if one is not None and other is not None and min(one, other) > 0
    }
    if not ratios:
        return None
    layer = max(ratios, key=lambda name: ratios[name])
    return next(row for row in rows if row.layer == layer)


def layer_pairs(
    traces: Source,
    *,
    step: int | None = None,
    stage: str = "update",
    metric: str = "neuron_norm_cv",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw a dumbbell per layer, grouped by kind of layer, then by depth.

    Args:
        traces: one trace or several; a line joins the first two.
        step: the captured step, or the nearest earlier one per layer; None for the last.
        stage: ``update`` or another captured stage.
        metric: a column of the catalogue.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there is no trace, or the theme is unknown.
    """
    return plot(info(traces, step=step, stage=stage, metric=metric), theme=theme_of(theme))
