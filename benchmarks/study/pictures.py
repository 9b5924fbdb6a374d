"""The study's figures, from its tables: what was trained, in the product's own type and colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from benchmarks.study.arms import ARMS
from benchmarks.study.statistics import paired
from benchmarks.study.tables import FIGURE_1_ARMS, Tables
from optgeom.figures.labels import EndLabel, end_labels, margin_for
from optgeom.figures.theme import Theme, axis, layout

MAIN = ("adamw", "muon", "normuon", "normuon-released")
SHORT: Mapping[str, str] = {
    "adamw": "AdamW",
    "muon": "Muon",
    "normuon": "NorMuon",
    "normuon-released": "NorMuon, released",
    "momentum": "Muon's momentum",
}
LOOK_AHEAD: Mapping[str, str] = {"muon": "muon-nesterov", "normuon": "normuon-nesterov"}
"""The same rule with Nesterov: dotted, in its rule's colour."""
SLOTS: Mapping[str, int] = {
    "adamw": 2,
    "muon": 1,
    "normuon": 0,
    "normuon-released": 5,
    "momentum": 4,
}
"""Colours: one a rule, the same in every figure."""

KINDS: Mapping[str, str] = {
    "attention.q": "attention q",
    "attention.k": "attention k",
    "attention.v": "attention v",
    "attention.o": "attention o",
    "mlp.up": "MLP up",
    "mlp.down": "MLP down",
}
WIDTH, HEIGHT = 760, 340
FROM = 200
"""Where curves of the loss begin: before it the fall hides the differences."""


def loss_by_step(tables: Tables, theme: Theme) -> go.Figure:
    """Held-out loss over steps, mean over the seeds, from step ``FROM`` on."""
    return _loss(tables, theme, title="steps", unit=lambda arm: 1.0)


def loss_by_time(tables: Tables, theme: Theme) -> go.Figure:
    """The same over the time that the steps take, as measured by turns."""
    title = "seconds of training (steps, each taking the median)"
    return _loss(tables, theme, title=title, unit=lambda arm: tables.cost_of(arm)["step_ms"] / 1e3)


def _loss(tables: Tables, theme: Theme, *, title: str, unit: Callable[[str], float]) -> go.Figure:
    lines, ends = [], []
    for arm in MAIN:
        for name, dash in ((arm, "solid"), (LOOK_AHEAD.get(arm), "dot")):
            if name is None:
                continue
            curves = tables.curves_of(name)
            steps = np.array([step for step, _ in curves[0]], np.float64)
            losses = np.array([[loss for _, loss in curve] for curve in curves])
            kept = steps >= FROM
            x, mean = (steps * unit(name))[kept], losses.mean(axis=0)[kept]
            lines.append(_line(x, mean, arm, theme, dash=dash))
            if name == arm:
                ends.append((arm, float(mean[-1])))
    target = dict(ends)["adamw"]
    low = min(float(np.min(line.y)) for line in lines)
    high = max(float(np.max(line.y)) for line in lines)
    low, high = low - 0.05 * (high - low), high + 0.02 * (high - low)
    right = max(float(np.max(line.x)) for line in lines)
    left = min(float(np.min(line.x)) for line in lines)
    rule = go.Scatter(
        x=[left, right],
        y=[target, target],
        mode="lines",
        line={"color": theme.reference, "width": 1, "dash": "dash"},
    )
    return _figure(
        [rule, *lines],
        theme,
        ends=[(arm, (loss - low) / (high - low)) for arm, loss in ends],
        x={"title": title, "range": [left, right]},
        y={"title": "held-out loss (nats per byte)", "range": [low, high], "nticks": 6},
    )


def singular_values(tables: Tables, theme: Theme) -> go.Figure:
    """Figure 1a: the singular values of one update, each over the largest."""

    def shape(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.sort(values)[::-1] / values.max()

    y = {"title": "singular value / largest", "type": "log", "dtick": 1}
    return _matrix(tables, theme, "singular_value", shape, x="index of the singular value", y=y)


def neuron_norms(tables: Tables, theme: Theme) -> go.Figure:
    """Figure 1b: the norms of the rows of one update, each over their mean."""

    def shape(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.sort(values) / values.mean()

    y = {
        "title": "row norm / mean",
        "type": "log",
        "tickvals": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
    }
    return _matrix(tables, theme, "neuron_norm", shape, x="neurons, by their norm", y=y)


def _matrix(
    tables: Tables,
    theme: Theme,
    quantity: str,
    shape: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    *,
    x: str,
    y: Mapping[str, Any],
) -> go.Figure:
    shown = {
        "momentum": ("muon", "momentum"),
        **{arm: (arm, "update") for arm in FIGURE_1_ARMS},
    }
    rows = tables.figure_1.to_pylist()
    curves = {}
    for name, (arm, stage) in shown.items():
        key = (arm, stage, quantity)
        found = [r["value"] for r in rows if (r["arm"], r["stage"], r["quantity"]) == key]
        curves[name] = shape(np.array(found))
    low = np.log10(min(float(curve[curve > 0].min()) for curve in curves.values()))
    high = np.log10(max(float(curve.max()) for curve in curves.values()))
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    lines = [
        _line(
            np.arange(1, len(curve) + 1),
            curve,
            name,
            theme,
            dash="dot" if name == "momentum" else "solid",
        )
        for name, curve in curves.items()
    ]
    ends = [
        (name, float((np.log10(curve[-1]) - low) / (high - low))) for name, curve in curves.items()
    ]
    last = len(next(iter(curves.values())))
    return _figure(
        lines,
        theme,
        ends=ends,
        x={"title": x, "range": [1, last]},
        y={**y, "range": [low, high]},
    )


def nonuniformity(tables: Tables, theme: Theme) -> go.Figure:
    """neuron_norm_cv of the update over training, by kind of layer."""
    return _over_training(tables, theme, "neuron_norm_cv", {"rangemode": "tozero", "nticks": 4})


def conditioning(tables: Tables, theme: Theme) -> go.Figure:
    """condition_number of the update over training, by kind of layer."""
    # plotly sets powers in a larger type than its other ticks
    ticks = {"tickvals": [1, 1e2, 1e4, 1e6], "ticktext": ["1", "100", "10⁴", "10⁶"]}
    return _over_training(tables, theme, "condition_number", {"type": "log", **ticks})


def _over_training(tables: Tables, theme: Theme, metric: str, y: Mapping[str, Any]) -> go.Figure:
    """Small multiples: medians over blocks, then over seeds."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in tables.geometry.to_pylist():
        value = row[metric]
        if row["stage"] == "update" and row["arm"] in MAIN and value is not None and value == value:
            by_step = found.setdefault((row["arm"], row["kind"]), {})
            by_step.setdefault(row["step"], []).append(value)
    figure = go.Figure()
    axes: dict[str, Any] = {}
    notes = []
    last = max(tables.curves.column("step").to_pylist())
    values = [np.median(v) for by_step in found.values() for v in by_step.values()]
    if y.get("type") == "log":
        span = [0.0, np.log10(max(values)) + 0.1]  # no condition number is below 1
    else:
        span = [0.0, 1.08 * max(values)]
    for i, (kind, words) in enumerate(KINDS.items()):
        column, row_ = i % 3, i // 3
        number = "" if i == 0 else str(i + 1)
        left, bottom = column * 0.35, 0.56 * (1 - row_)
        axes[f"xaxis{number}"] = axis(
            theme,
            title="steps" if row_ else "",
            horizontal=True,
            domain=[left, left + 0.30],
            anchor=f"y{number}",
            range=[0, last],
            dtick=200,
        )
        axes[f"yaxis{number}"] = axis(
            theme,
            title=metric if column == 0 else "",
            horizontal=False,
            domain=[bottom, bottom + 0.40],
            anchor=f"x{number}",
            **{**y, "range": span},
        )
        notes.append(_note(words, left, bottom + 0.41, theme.text))
        for arm in MAIN:
            by_step = found.get((arm, kind), {})
            steps = sorted(by_step)
            line = _line(
                np.array(steps), np.array([np.median(by_step[s]) for s in steps]), arm, theme
            )
            figure.add_trace(line.update(xaxis=f"x{number}", yaxis=f"y{number}"))
    for i, arm in enumerate(MAIN):
        notes.append(_note(SHORT[arm], 0.16 * i, 1.09, theme.run(SLOTS[arm])))
    figure.update_layout(
        {**layout(theme, height=480, right=16), **axes, "width": WIDTH, "annotations": notes}
    )
    return figure.update_layout(margin={"l": 60, "r": 16, "t": 52, "b": 44})


def differences(tables: Tables, theme: Theme) -> go.Figure:
    """Each rule's final loss minus Muon's, seed by seed, with its interval; AdamW is far away."""
    arms = [arm for arm in ARMS if arm not in ("adamw", "adamw-two-rates", "muon")][::-1]
    means = [paired(tables.losses(arm), tables.losses("muon")) for arm in arms]
    seeds = [np.subtract(tables.losses(arm), tables.losses("muon")) for arm in arms]
    places = np.arange(len(arms))
    points = go.Scatter(
        x=np.concatenate(seeds),
        y=np.repeat(places, [len(one) for one in seeds]) - 0.22,
        mode="markers",
        marker={"size": 5, "color": theme.reference, "opacity": 0.7},
    )
    bars = go.Scatter(
        x=[mean.value for mean in means],
        y=places,
        mode="markers",
        marker={"size": 9, "color": theme.run(0)},
        error_x={
            "type": "data",
            "array": [mean.half for mean in means],
            "thickness": 2,
            "width": 5,
            "color": theme.run(0),
        },
    )
    x = axis(theme, title="final held-out loss minus Muon's (nats per byte)", horizontal=True)
    y = axis(
        theme,
        title="",
        horizontal=False,
        tickvals=list(places),
        ticktext=[ARMS[arm].label for arm in arms],
        range=[-0.6, len(arms) - 0.4],
    )
    drawing = layout(theme, height=HEIGHT, right=24, xaxis={**x, "zeroline": True}, yaxis=y)
    drawing["xaxis"] |= {"zerolinecolor": theme.reference, "rangemode": "tozero"}
    drawing |= {"margin": {"l": 240, "r": 24, "t": 8, "b": 44}, "width": WIDTH}
    return go.Figure(data=[points, bars], layout=drawing)


def _line(
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    name: str,
    theme: Theme,
    *,
    dash: str = "solid",
) -> go.Scatter:
    style = {"color": theme.run(SLOTS[name]), "width": 2, "dash": dash}
    return go.Scatter(x=x, y=y, mode="lines", name=SHORT[name], line=style)


def _note(text: str, x: float, y: float, color: str) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"color": color}, **place}


def _figure(
    lines: Sequence[go.Scatter],
    theme: Theme,
    *,
    ends: Sequence[tuple[str, float]],
    x: dict[str, Any],
    y: dict[str, Any],
) -> go.Figure:
    labels = [EndLabel(SHORT[arm], theme.run(SLOTS[arm]), at) for arm, at in ends]
    drawing = layout(
        theme,
        height=HEIGHT,
        right=margin_for([label.text for label in labels]),
        annotations=end_labels(labels, plot_height=HEIGHT - 48),
        xaxis=axis(theme, horizontal=True, **x),
        yaxis=axis(theme, horizontal=False, **y),
    )
    return go.Figure(data=list(lines), layout={**drawing, "width": WIDTH})


PICTURES: Mapping[str, Callable[[Tables, Theme], go.Figure]] = {
    "loss-by-step": loss_by_step,
    "loss-by-time": loss_by_time,
    "differences": differences,
    "figure-1a": singular_values,
    "figure-1b": neuron_norms,
    "neuron-norm-cv": nonuniformity,
    "condition-number": conditioning,
}
"""From the name of a file to its figure."""
