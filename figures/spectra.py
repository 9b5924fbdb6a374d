"""Singular spectra of one layer: how well conditioned are its updates?

Figure 1a of NorMuon (arXiv 2510.05491) for any captured layer. The momentum's spectrum stands
beside the update's: what the orthogonalization was given, and what it made of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from optgeom.figures.empty import empty
from optgeom.figures.formats import number
from optgeom.figures.labels import EndLabel, end_labels, margin_for, note, wrapped
from optgeom.figures.names import escape, layer_title, run_label, run_short
from optgeom.figures.reading import (
    Missing,
    Source,
    as_traces,
    at_or_before,
    captured_steps,
    find_layer,
    first_capture,
    missing_table,
    numbers_of,
    slot_map,
)
from optgeom.figures.statuses import status_at, unusable
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, layout, theme_of

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

# Nothing is resolved below: the axis ends here when a matrix is singular and no floor is known.
LOWEST = 1e-8
ROOM = 18
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
AXIS = f"{SIGMA}<sub>i</sub> / {SIGMA}<sub>1</sub>"


class SpectrumCurve(NamedTuple):
    """One run's singular values of one stage, descending, each divided by the largest."""

    run: str
    slot: int
    stage: str
    step: int
    values: tuple[float, ...]


class SpectrumInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        stage: the stage drawn solid.
        curves: the stage and, beside it, the momentum, one pair per run.
        floor: the largest noise floor of the shown curves as a share of s_1; 0 where none.
        bottom: where the axis ends, over all steps and shown runs.
        missing: what runs lack.
    """

    title: str
    stage: str
    curves: tuple[SpectrumCurve, ...]
    floor: float
    bottom: float
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    layer: str,
    *,
    step: int | None = None,
    stage: str = "update",
    momentum: bool = True,
    slots: Mapping[str, int] | None = None,
) -> SpectrumInfo:
    """Collect the spectra of one layer.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        step: the captured step, or the nearest earlier one; None for each run's last.
        stage: the stage to draw solid.
        momentum: whether to add the momentum's spectrum, where it was captured.
        slots: colour slot per run; by default decided from these traces.
    """
    shown = as_traces(traces)
    title = layer_title(find_layer(shown, layer))
    colours = slot_map(shown, slots)
    stages = (stage, "momentum") if momentum and stage != "momentum" else (stage,)
    curves: list[SpectrumCurve] = []
    missing: list[Missing] = []
    lows, floor = [0.1], 0.0
    for trace in shown:
        for one in stages:
            steps = captured_steps(trace, layer, stage=one, table="spectra")
            if not steps:
                if one == stage:
                    missing.append(missing_table(trace, title=title, stage=one, table="spectra"))
                continue
            lows.append(_lowest(trace, layer, one))
            at = at_or_before(steps, step)
            if at is None:
                missing.append(first_capture(trace, steps[0]))
                continue
            # A captured step may hold a null spectrum, which spectra() leaves out.
            stored = trace.spectra(layer, stage=one, steps=[at])[1]
            values = relative(stored[-1]) if stored else ()
            if not values:
                status = status_at(trace, layer, stage=one, step=at, of="spectra")
                why = "undefined" if status == "ok" else status
                missing.append(unusable(trace, stage=one, status=why, step=at, beside=one != stage))
                continue
            slot = colours.get(trace.name, 99)
            curves.append(SpectrumCurve(trace.name, slot, one, at, values))
            floor = max(floor, _floor(trace, layer, one, at))
    bottom = max(min(lows), floor / 3, LOWEST)
    return SpectrumInfo(
        title, stage, tuple(curves), floor, 10.0 ** math.floor(math.log10(bottom)), tuple(missing)
    )


def relative(values: Any) -> tuple[float, ...]:
    """Return singular values divided by the largest; empty for a zero or unusable spectrum."""
    spectrum = np.asarray(values, dtype=np.float64)
    if spectrum.size == 0 or not np.isfinite(spectrum).all() or spectrum[0] <= 0:
        return ()
    return tuple((spectrum / spectrum[0]).tolist())


def _lowest(trace: Trace, layer: str, stage: str) -> float:
    """Return the smallest positive s_r / s_1 over all captured steps."""
    ends = [
        spectrum[-1] / spectrum[0]
        for spectrum in trace.spectra(layer, stage=stage)[1]
        if len(spectrum) and spectrum[0] > 0 and spectrum[-1] > 0
    ]
    return float(min(ends, default=1.0))


def _floor(trace: Trace, layer: str, stage: str, step: int) -> float:
    table = trace.metrics(steps=[step], layers=[layer], stages=[stage])
    floors = numbers_of(table, "noise_floor")
    tops = numbers_of(table, "spectral_norm")
    usable = np.isfinite(floors) & np.isfinite(tops) & (tops > 0)
    return float((floors[usable] / tops[usable]).max(initial=0.0))


def plot(what: SpectrumInfo, *, theme: Theme, height: int = HEIGHT) -> go.Figure:
    """Draw the spectra on a log axis, the momentum dashed, labelled at the line ends."""
    if not what.curves:
        return empty(what.missing, theme, height=height)
    bottom, top = math.log10(what.bottom), math.log10(1.3)
    lines = [_line(curve, what, theme) for curve in what.curves]
    ends = [
        EndLabel(
            _end_label(curve, what),
            theme.run(curve.slot),
            (math.log10(max(curve.values[-1], what.bottom)) - bottom) / (top - bottom),
        )
        for curve in what.curves
    ]
    every = 1 if top - bottom <= 5 else 2
    ticks = [10.0**power for power in range(0, round(bottom) - 1, -every)]
    notes = end_labels(ends, plot_height=height - 48)
    if what.missing and all(curve.stage != what.stage for curve in what.curves):
        text = "<br>".join(wrapped(one.what) for one in what.missing)
        low = {"x": 0, "y": 0, "xref": "paper", "yref": "paper", "xanchor": "left"}
        notes.append(note(text, theme, **low, yanchor="bottom", xshift=6, align="left"))
    band = _band(what, theme)
    if band:
        place = math.log10(what.floor)
        text = "below rounding"
        notes.append(
            note(text, theme, x=1, y=place, xanchor="left", yanchor="top", bgcolor=theme.ground)
        )
    return go.Figure(
        data=band + lines,
        layout=layout(
            theme,
            height=height,
            right=margin_for([label.text for label in ends]),
            xaxis=axis(theme, title="index (%)", horizontal=True, range=[0, 100], dtick=25)
            | {"hoverformat": ".0f", "unifiedhovertitle": {"text": "index %{x:.0f} %"}}
            | crosshair(theme),
            yaxis=axis(
                theme,
                title=AXIS,
                horizontal=False,
                type="log",
                range=[bottom, top],
                tickvals=ticks,
                ticktext=[number(tick) for tick in ticks],
            ),
            annotations=notes,
        ),
    )


def _label(curve: SpectrumCurve, what: SpectrumInfo) -> str:
    label = run_label(curve.run)
    return label if curve.stage == what.stage else f"{label} {curve.stage}"


def _end_label(curve: SpectrumCurve, what: SpectrumInfo) -> str:
    label = run_short(curve.run)
    if curve.stage == what.stage:
        return label
    both = f"{label} {curve.stage}"
    return both if len(both) <= ROOM else curve.stage


def _line(curve: SpectrumCurve, what: SpectrumInfo, theme: Theme) -> go.Scatter:
    count = len(curve.values)
    name = escape(_label(curve, what))
    return go.Scatter(
        x=np.linspace(0, 100, count) if count > 1 else [50.0],
        y=[max(value, what.bottom) for value in curve.values],
        mode="lines" if count > 1 else "markers",
        name=name,
        text=[number(value) for value in curve.values],
        hovertemplate=f"{name} %{{text}}<extra></extra>",
        line={
            "color": theme.run(curve.slot),
            "width": 2,
            "dash": "solid" if curve.stage == what.stage else "dash",
        },
    )


def _band(what: SpectrumInfo, theme: Theme) -> list[go.Scatter]:
    """Hatch what lies below the floor, where the axis reaches it."""
    if what.floor <= what.bottom:
        return []
    return [
        go.Scatter(
            x=[0, 100, 100, 0],
            y=[what.floor, what.floor, what.bottom, what.bottom],
            fill="toself",
            mode="none",
            hoverinfo="skip",
            fillpattern={"shape": "/", "size": 6, "solidity": 0.12, "fgcolor": theme.reference}
            | {"bgcolor": "rgba(0,0,0,0)"},
            fillcolor="rgba(0,0,0,0)",
        )
    ]


def spectrum(
    traces: Source,
    layer: str,
    *,
    step: int | None = None,
    stage: str = "update",
    momentum: bool = True,
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the singular spectra of one layer, one line per run, the momentum dashed.

    The steeper a line, the larger the condition number: its value at 100 % is 1 / κ.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        step: the captured step, or the nearest earlier one; None for each run's last.
        stage: ``update`` or another captured stage.
        momentum: whether to draw the momentum's spectrum beside it.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if no trace has the layer, or the theme is unknown.
    """
    what = info(traces, layer, step=step, stage=stage, momentum=momentum)
    return plot(what, theme=theme_of(theme))
