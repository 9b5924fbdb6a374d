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
import pyarrow as pa

from optgeom.figures import tables
from optgeom.figures.arrays import NO_FLOATS, Floats
from optgeom.figures.cells import cells
from optgeom.figures.empty import empty
from optgeom.figures.formats import number, whole
from optgeom.figures.labels import EndLabel, end_labels, margin_for, note, wrapped
from optgeom.figures.names import escape, layer_stage, layer_title, run_label, run_short
from optgeom.figures.reading import (
    Missing,
    Source,
    as_traces,
    at_or_before,
    captured_steps,
    find_layer,
    first_capture,
    missing_table,
    slot_map,
)
from optgeom.figures.statuses import status_at, unusable
from optgeom.figures.theme import HEIGHT, Theme, ThemeName, axis, crosshair, layout, theme_of
from optgeom.figures.thin import percent, sorted_places

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
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
    values: Floats


class SpectrumInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        layer: the layer.
        stage: the stage drawn solid.
        curves: the stage and, beside it, the momentum, one pair per run.
        floor: the largest noise floor of the shown curves as a share of s_1; 0 where none.
        bottom: where the axis ends, over all steps and shown runs.
        missing: what runs lack.
    """

    title: str
    layer: LayerInfo
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
    described = find_layer(shown, layer)
    title = layer_title(described)
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
            lowest = lowest_ratio(trace, layer, one)
            lows += [] if lowest is None else [lowest]
            at = at_or_before(steps, step)
            if at is None:
                missing.append(first_capture(trace, steps[0]))
                continue
            # A captured step may hold a null spectrum, which spectra() leaves out.
            stored = trace.spectra(layer, stage=one, steps=[at])[1]
            values = relative(stored[-1]) if stored else NO_FLOATS
            if not values.size:
                status = status_at(trace, layer, stage=one, step=at, of="spectra")
                why = "undefined" if status == "ok" else status
                missing.append(unusable(trace, stage=one, status=why, step=at, beside=one != stage))
                continue
            slot = colours.get(trace.name, 99)
            curves.append(SpectrumCurve(trace.name, slot, one, at, values))
            floor = max(floor, _floor(trace, layer, one, at))
    bottom = max(min(lows), floor / 3, LOWEST)
    bottom = 10.0 ** math.floor(math.log10(bottom))
    return SpectrumInfo(title, described, stage, tuple(curves), floor, bottom, tuple(missing))


def relative(values: Any) -> Floats:
    """Return singular values divided by the largest; empty for a zero or unusable spectrum."""
    spectrum = np.asarray(values, dtype=np.float64)
    if spectrum.size == 0 or not np.isfinite(spectrum).all() or spectrum[0] <= 0:
        return NO_FLOATS
    ratios: Floats = spectrum / spectrum[0]
    return ratios


def lowest_ratio(trace: Trace, layer: str, stage: str) -> float | None:
    """Return the smallest positive sigma_r / sigma_1 over all captured steps; None without any.

    It is 1 / condition number where that is exact, so that spectra are read only where it is a
    bound or missing.
    """
    captured = trace.steps(layer, stage=stage, table="spectra")
    known = cells(trace, "condition_number", stage=stage, layers=[layer])
    rows = np.searchsorted(known.steps, captured)
    numbers = known.values[rows, 0]
    exact = np.isfinite(numbers) & ~known.bounds[rows, 0] & (numbers >= 1)
    found = (1 / numbers[exact]).tolist()
    others = captured[~exact].tolist()
    if others:
        each = (relative(one) for one in trace.spectra(layer, stage=stage, steps=others)[1])
        found += [float(one[one > 0].min()) for one in each if one.size]
    return min(found, default=None)


def _floor(trace: Trace, layer: str, stage: str, step: int) -> float:
    floors, tops = (trace.grid(name, stage) for name in ("noise_floor", "spectral_norm"))
    row, column = int(np.searchsorted(floors.steps, step)), floors.layers.index(layer)
    floor, top = float(floors.values[row, column]), float(tops.values[row, column])
    return floor / top if math.isfinite(floor) and math.isfinite(top) and top > 0 else 0.0


def plot(
    what: SpectrumInfo, *, theme: Theme, height: int = HEIGHT, right: int | None = None
) -> go.Figure:
    """Draw the spectra on a log axis, the momentum dashed, labelled at the line ends.

    Args:
        what: the curves.
        theme: the colours.
        height: pixels.
        right: the margin that holds the labels, shared with figures beside this one.
    """
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
            right=right_margin(what) if right is None else right,
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


def right_margin(what: SpectrumInfo) -> int:
    """Return the margin in pixels that holds the labels of all curves."""
    return margin_for([_end_label(curve, what) for curve in what.curves])


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
    kept = sorted_places(count)
    values = curve.values[kept]
    return go.Scatter(
        x=percent(count)[kept],
        y=np.maximum(values, what.bottom),
        mode="lines" if count > 1 else "markers",
        name=name,
        customdata=values.astype(np.float32),
        hovertemplate=f"{name} %{{customdata:.3~g}}<extra></extra>",
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


def table(what: SpectrumInfo) -> pa.Table:
    """Return the figure's data: a row per run, stage and singular value."""
    schema = {
        "run": pa.string(),
        "layer": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        "index": pa.int64(),
        "index (%)": pa.float64(),
        "sigma_i / sigma_1": pa.float64(),
    }
    parts = []
    for curve in what.curves:
        count = len(curve.values)
        each = [curve.run, what.layer.name, curve.stage, curve.step]
        each += [np.arange(count), percent(count), curve.values]
        parts.append(dict(zip(schema, each, strict=True)))
    return tables.stacked(parts, schema)


def words(what: SpectrumInfo) -> str:
    """Return the figure in a sentence: how far each spectrum falls."""
    if not what.curves:
        return tables.joined([], what.missing)
    said = [
        f"{_label(curve, what)} to {number(float(curve.values[-1]))} at step {whole(curve.step)}"
        for curve in what.curves
    ]
    of = f"Singular values of {layer_stage(what.layer, what.stage)} over the largest fall"
    return tables.joined([f"{of}: {'; '.join(said)}."], what.missing)


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
