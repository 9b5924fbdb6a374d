"""The loss of each run, by step, by tokens or by time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from optgeom.figures.empty import empty
from optgeom.figures.formats import number
from optgeom.figures.labels import EndLabel, end_labels, margin_for
from optgeom.figures.names import escape, run_label, run_short
from optgeom.figures.reading import Missing, Source, as_traces, slot_map
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, layout, theme_of

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

Abscissa = Literal["step", "tokens", "time"]
TITLES: dict[Abscissa, str] = {"step": "step", "tokens": "tokens", "time": "time (s)"}
FEW = 30


class LossCurve(NamedTuple):
    """One run's loss."""

    run: str
    slot: int
    x: tuple[float, ...]
    y: tuple[float, ...]


class LossInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        name: the scalar's name.
        against: ``step``, ``tokens`` or ``time``.
        curves: one per run that has it.
        missing: what runs lack.
    """

    name: str
    against: Abscissa
    curves: tuple[LossCurve, ...]
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    *,
    against: Abscissa = "step",
    name: str = "loss",
    slots: Mapping[str, int] | None = None,
) -> LossInfo:
    """Collect one scalar of each run.

    Args:
        traces: one trace or several.
        against: what the x axis counts; ``time`` is the scalar ``elapsed_seconds``.
        name: the scalar.
        slots: colour slot per run; by default decided from these traces.
    """
    shown = as_traces(traces)
    colours = slot_map(shown, slots)
    curves, missing = [], []
    for trace in shown:
        steps, values = scalar(trace, name)
        if not steps.size:
            what = f"{run_label(trace.name)} has no scalar called {name}."
            missing.append(Missing(what, f"rec.log({name}={name}.item())"))
            continue
        x = _abscissa(trace, steps, against)
        if x is None:
            needed = {"tokens": "tokens", "time": "elapsed_seconds"}[against]
            what = f"{run_label(trace.name)} has no scalar called {needed}."
            missing.append(Missing(what, f"rec.log({needed}={needed})"))
            continue
        lost = _not_finite_from(steps, values)
        if lost is not None:
            brief = f"{name} not finite from step {lost:,}"
            what = f"{run_label(trace.name)}: {brief}."
            missing.append(Missing(what, "", trace.name, brief))
        usable = np.isfinite(x)
        points = tuple(x[usable].tolist()), tuple(values[usable].tolist())
        curves.append(LossCurve(trace.name, colours.get(trace.name, 99), *points))
    return LossInfo(name, against, tuple(curves), tuple(missing))


def scalar(
    trace: Trace, name: str
) -> tuple[
    np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]
]:
    """Return a scalar's steps and values, both float64, ascending by step; empty where absent."""
    table = trace.scalars(name)
    steps = np.asarray(table.column("step").to_numpy(), dtype=np.float64)
    values = np.asarray(table.column("value").to_numpy(), dtype=np.float64)
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _not_finite_from(
    steps: np.ndarray[tuple[int], np.dtype[np.float64]],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> int | None:
    """Return the step from which on a scalar stays not finite; None where its last value is."""
    finite = np.flatnonzero(np.isfinite(values))
    first = int(finite[-1]) + 1 if finite.size else 0
    return int(steps[first]) if first < steps.size else None


def _abscissa(
    trace: Trace, steps: np.ndarray[tuple[int], np.dtype[np.float64]], against: Abscissa
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    if against == "step":
        return steps
    at, values = scalar(trace, "tokens" if against == "tokens" else "elapsed_seconds")
    if not at.size:
        return None
    return np.interp(steps, at, values, left=np.nan, right=np.nan)


def plot(what: LossInfo, *, theme: Theme, height: int = HEIGHT) -> go.Figure:
    """Draw the curves as recorded, unsmoothed, labelled at the line ends."""
    drawn = [curve for curve in what.curves if np.isfinite(curve.y).any()]
    if not drawn:
        return empty(what.missing, theme, height=height)
    finite = np.concatenate([np.asarray(curve.y) for curve in drawn])
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    pad = 0.04 * (high - low) or 1.0
    low, high = low - pad, high + pad
    ends = []
    for curve in drawn:
        known = [value for value in curve.y if np.isfinite(value)]
        if known:
            at = (known[-1] - low) / (high - low)
            ends.append(EndLabel(run_short(curve.run), theme.run(curve.slot), at))
    lines = [
        go.Scatter(
            x=curve.x,
            y=curve.y,
            mode="lines+markers" if len(curve.x) <= FEW else "lines",
            name=escape(run_label(curve.run)),
            text=[number(value) for value in curve.y],
            hovertemplate=f"{escape(run_label(curve.run))} %{{text}}<extra></extra>",
            line={"color": theme.run(curve.slot), "width": 2},
            marker={"size": 6},
        )
        for curve in drawn
    ]
    start = min(curve.x[0] for curve in drawn)
    end = max(curve.x[-1] for curve in drawn)
    title = TITLES[what.against]
    return go.Figure(
        data=lines,
        layout=layout(
            theme,
            height=height,
            right=margin_for([label.text for label in ends]),
            annotations=end_labels(ends, plot_height=height - 48),
            xaxis=axis(theme, title=title, horizontal=True, tickformat=",~s", nticks=8)
            | {"range": [start, end if end > start else start + 1]}
            | {"hoverformat": ",.3~s" if what.against != "step" else ",d"}
            | {"unifiedhovertitle": {"text": f"{title} %{{x}}"}}
            | crosshair(theme),
            yaxis=axis(theme, title=what.name, horizontal=False, range=[low, high], nticks=6),
        ),
    )


def loss(
    traces: Source,
    *,
    against: Abscissa = "step",
    name: str = "loss",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the loss (or any other logged scalar) of each run.

    Args:
        traces: one trace or several.
        against: ``step``, ``tokens`` or ``time`` (seconds, as ``rec.log`` noted them).
        name: the scalar, as given to ``rec.log``.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there is no trace, or the theme is unknown.
    """
    return plot(info(traces, against=against, name=name), theme=theme_of(theme))
