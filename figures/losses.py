"""The loss of each run, by step, by tokens or by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import tables
from optgeom.figures.arrays import Floats, Ints, extent
from optgeom.figures.empty import empty
from optgeom.figures.formats import hover_format, number, whole
from optgeom.figures.identity import computed_from
from optgeom.figures.labels import EndLabel, end_labels, margin_for
from optgeom.figures.names import escape, run_label, run_short
from optgeom.figures.reading import Missing, Source, as_traces, slot_map
from optgeom.figures.steps import Span, drawn, inside, reach, step_layout
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, layout, theme_of
from optgeom.figures.thin import thinned

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

Abscissa = Literal["step", "tokens", "time"]
TITLES: dict[Abscissa, str] = {"step": "step", "tokens": "tokens", "time": "time (s)"}
FEW = 30


class LossCurve(NamedTuple):
    """One run's loss.

    Attributes:
        run: the run.
        slot: its colour slot.
        x: where each value stands, ascending.
        y: the values; not finite where the run logged that.
        steps: the step of each.
    """

    run: str
    slot: int
    x: Floats
    y: Floats
    steps: Ints


class LossInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        name: the scalar's name.
        against: ``step``, ``tokens`` or ``time``.
        curves: one per run that has it.
        extent: the smallest and largest finite value over all steps; None where there is none.
        ends: where the x axis begins and ends.
        span: the zoom over steps; None for everything.
        missing: what runs lack.
    """

    name: str
    against: Abscissa
    curves: tuple[LossCurve, ...]
    extent: tuple[float, float] | None
    ends: tuple[float, float]
    span: Span | None
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    *,
    against: Abscissa = "step",
    name: str = "loss",
    slots: Mapping[str, int] | None = None,
    span: Span | None = None,
) -> LossInfo:
    """Collect one scalar of each run.

    Args:
        traces: one trace or several.
        against: what the x axis counts; ``time`` is the scalar ``elapsed_seconds``.
        name: the scalar.
        slots: colour slot per run; by default decided from these traces.
        span: the first and last step shown; None for all, and always where x is no step. The
            value axis is that of all steps.
    """
    span = span if against == "step" else None
    shown = as_traces(traces)
    colours = slot_map(shown, slots)
    curves, missing = [], []
    for trace in shown:
        steps, values = scalar(trace, name)
        if not steps.size:
            missing.append(_no_scalar(trace, name))
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
        slot = colours.get(trace.name, 99)
        at = steps[usable].astype(np.int64)
        curves.append(LossCurve(trace.name, slot, x[usable], values[usable], at))
    return LossInfo(
        name,
        against,
        tuple(_within(curve, span) for curve in curves),
        extent(*(curve.y for curve in curves)),
        _ends(curves, span),
        span,
        tuple(missing),
    )


def _no_scalar(trace: Trace, name: str) -> Missing:
    if source := computed_from(trace):
        what = (
            f"{run_label(trace.name)} is computed from {run_label(source)}: it was never trained, "
            f"so it has no {name}."
        )
        return Missing(what, "", trace.name, f"computed, no {name}")
    what = f"{run_label(trace.name)} has no scalar called {name}."
    return Missing(what, f"rec.log({name}={name}.item())")


def _within(curve: LossCurve, span: Span | None) -> LossCurve:
    kept = drawn(curve.steps, span)
    run, slot, x, y, steps = curve
    return LossCurve(run, slot, x[kept], y[kept], steps[kept])


def _ends(curves: Sequence[LossCurve], span: Span | None) -> tuple[float, float]:
    """Return where the x axis begins and ends, runs without any number left aside."""
    shown = [curve for curve in curves if np.isfinite(curve.y).any()]
    if span is not None:
        return reach([], span)
    start = min((float(curve.x[0]) for curve in shown), default=0.0)
    end = max((float(curve.x[-1]) for curve in shown), default=1.0)
    return start, end if end > start else start + 1


def scalar(trace: Trace, name: str) -> tuple[Floats, Floats]:
    """Return a scalar's steps and values, both float64, ascending by step; empty where absent."""
    table = trace.scalars(name)
    steps = np.asarray(table.column("step").to_numpy(), dtype=np.float64)
    values = np.asarray(table.column("value").to_numpy(), dtype=np.float64)
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _not_finite_from(steps: Floats, values: Floats) -> int | None:
    """Return the step from which on a scalar stays not finite; None where its last value is."""
    finite = np.flatnonzero(np.isfinite(values))
    first = int(finite[-1]) + 1 if finite.size else 0
    return int(steps[first]) if first < steps.size else None


def _abscissa(trace: Trace, steps: Floats, against: Abscissa) -> Floats | None:
    if against == "step":
        return steps
    at, values = scalar(trace, "tokens" if against == "tokens" else "elapsed_seconds")
    if not at.size:
        return None
    return np.interp(steps, at, values, left=np.nan, right=np.nan)


def plot(
    what: LossInfo, *, theme: Theme, height: int = HEIGHT, cursor: int | None = None
) -> go.Figure:
    """Draw the curves as recorded, unsmoothed, labelled at the line ends."""
    if what.extent is None:
        return empty(what.missing, theme, height=height)
    low, high = what.extent
    pad = 0.04 * (high - low) or 1.0
    low, high = low - pad, high + pad
    ends, data = [], []
    for curve in what.curves:
        finite = np.isfinite(curve.y)
        if not finite.any():
            continue
        data.append(_line(curve, what, theme))
        known = curve.y[finite & inside(curve.steps, what.span)]
        if known.size:
            at = float((known[-1] - low) / (high - low))
            ends.append(EndLabel(run_short(curve.run), theme.run(curve.slot), at))
    settings: dict[str, Any] = {
        "height": height,
        "right": margin_for([run_short(curve.run) for curve in what.curves]),
        "annotations": end_labels(ends, plot_height=height - 48),
        "yaxis": axis(
            theme, title=escape(what.name), horizontal=False, range=[low, high], nticks=6
        ),
    }
    if what.against == "step":
        first, last = (round(end) for end in what.ends)
        x = {"unifiedhovertitle": {"text": "step %{x:,d}"}} | crosshair(theme)
        drawing = step_layout(theme, ends=(first, last), cursor=cursor, x=x, **settings)
    else:
        title = TITLES[what.against]
        x = axis(theme, title=title, horizontal=True, tickformat=",~s", nticks=8)
        x |= {"range": list(what.ends), "unifiedhovertitle": {"text": f"{title} %{{x:,.3~s}}"}}
        drawing = layout(theme, xaxis=x | crosshair(theme), **settings)
    return go.Figure(data=data, layout=drawing)


def _line(curve: LossCurve, what: LossInfo, theme: Theme) -> go.Scatter:
    name = escape(run_label(curve.run))
    kept = thinned(curve.y)
    digits = hover_format(*(what.extent or (0.0, 1.0)))
    return go.Scatter(
        x=curve.steps[kept] if what.against == "step" else curve.x[kept],
        y=np.where(np.isfinite(curve.y), curve.y, np.nan)[kept].astype(np.float32),
        mode="lines+markers" if len(curve.x) <= FEW else "lines",
        name=name,
        hovertemplate=f"{name} %{{y:{digits}}}<extra></extra>",
        line={"color": theme.run(curve.slot), "width": 2},
        marker={"size": 6},
    )


def table(what: LossInfo) -> pa.Table:
    """Return the figure's data: a row per run and logged step of the span."""
    columns = {"run": pa.string(), "step": pa.int64()}
    if what.against != "step":
        columns[TITLES[what.against]] = pa.float64()
    columns[what.name] = pa.float64()
    parts = []
    for curve in what.curves:
        kept = inside(curve.steps, what.span)
        part = {"run": curve.run, "step": curve.steps[kept]}
        part[TITLES[what.against]] = curve.x[kept] if what.against != "step" else part["step"]
        parts.append({**part, what.name: curve.y[kept]})
    return tables.stacked(parts, columns)


def words(what: LossInfo) -> str:
    """Return the figure in a sentence per run."""
    heading = f"{what.name[:1].upper()}{what.name[1:]} by {TITLES[what.against]}."
    said = [heading] if what.curves else []
    return tables.joined([*said, *(_said(one, what) for one in what.curves)], what.missing)


def _said(curve: LossCurve, what: LossInfo) -> str:
    kept = inside(curve.steps, what.span)
    steps, values = curve.steps[kept], curve.y[kept]
    known = np.flatnonzero(np.isfinite(values))
    run = run_label(curve.run)
    if not known.size:
        return f"{run} has no number here."
    first, last = int(known[0]), int(known[-1])
    low = float(values[known].min())
    start = f"{number(float(values[first]))} at step {whole(int(steps[first]))}"
    if first == last:
        return f"{run}: {start}."
    end = f"{number(float(values[last]))} at step {whole(int(steps[last]))}"
    return f"{run}: from {start} to {end}, lowest {number(low)}."


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
