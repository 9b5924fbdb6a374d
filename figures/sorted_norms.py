"""Sorted neuron norms of one layer: does every neuron move by the same amount?

Figure 1b of NorMuon (arXiv 2510.05491) for any captured layer. A neuron is a row of the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import tables
from optgeom.figures.arrays import NO_FLOATS, NO_INTS, Floats, Ints
from optgeom.figures.chosen_neuron import Spot, dot, dot_label
from optgeom.figures.empty import empty
from optgeom.figures.formats import number, power_of_two, whole
from optgeom.figures.labels import EndLabel, end_labels, margin_for, note
from optgeom.figures.leverage import polar_row_norms
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
from optgeom.traces.errors import NotCaptured

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

# Norms below 1/64 of the mean are dormant however small they are: the axis ends there.
LOWEST = -6


class NormCurve(NamedTuple):
    """One run's neuron norms, ascending, each divided by their mean, and whose they are."""

    run: str
    slot: int
    step: int
    values: Floats
    neurons: Ints


class NeuronNormsInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        title: the layer's display name.
        layer: the layer.
        stage: the stage of the norms.
        curves: one per run that has a capture at or before the step.
        exact: what exact orthogonalization of ``ns_input`` would leave (tall layers only).
        exponents: the axis from 2 ** first to 2 ** last, over all steps and shown runs.
        missing: what runs lack.
    """

    title: str
    layer: LayerInfo
    stage: str
    curves: tuple[NormCurve, ...]
    exact: tuple[NormCurve, ...]
    exponents: tuple[int, int]
    missing: tuple[Missing, ...]


def info(
    traces: Source,
    layer: str,
    *,
    step: int | None = None,
    stage: str = "update",
    exact: bool = True,
    slots: Mapping[str, int] | None = None,
) -> NeuronNormsInfo:
    """Collect the sorted neuron norms of one layer.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        step: the captured step, or the nearest earlier one; None for each run's last.
        stage: the stage of the norms.
        exact: whether to add the exact orthogonalization, where the raw ``ns_input`` is there.
        slots: colour slot per run; by default decided from these traces.
    """
    shown = as_traces(traces)
    described = find_layer(shown, layer)
    title = layer_title(described)
    colours = slot_map(shown, slots)
    curves: list[NormCurve] = []
    ideal: list[NormCurve] = []
    missing: list[Missing] = []
    lows, highs = [0.25], [4.0]
    for trace in shown:
        steps = captured_steps(trace, layer, stage=stage, table="neurons")
        if not steps:
            missing.append(missing_table(trace, title=title, stage=stage, table="neurons"))
            continue
        # One read serves the curve and the axis, which is that of all captures.
        at_steps, block = trace.neurons(layer, stage=stage)
        low, high = _extent(block)
        lows.append(low)
        highs.append(high)
        at = at_or_before(steps, step)
        if at is None:
            missing.append(first_capture(trace, steps[0]))
            continue
        norms = block[int(np.searchsorted(at_steps, at))]
        values, neurons = sorted_ratio(norms)
        if not values.size:
            why = _why_unusable(trace, layer, stage, at, norms)
            missing.append(unusable(trace, stage=stage, status=why, step=at))
            continue
        curves.append(NormCurve(trace.name, colours.get(trace.name, 99), at, values, neurons))
        if exact and stage == "update" and described.shape[0] > described.shape[1]:
            ideal += _exact(trace, layer, at, colours.get(trace.name, 99))
    exponents = (
        max(LOWEST, math.floor(math.log2(min(lows)))),
        min(-LOWEST, math.ceil(math.log2(max(highs)))),
    )
    return NeuronNormsInfo(
        title, described, stage, tuple(curves), tuple(ideal), exponents, tuple(missing)
    )


def sorted_ratio(norms: npt.NDArray[np.floating]) -> tuple[Floats, Ints]:
    """Return norms divided by their mean, ascending, and the neuron of each.

    Both are empty where the mean is not positive; equal norms stand in the neurons' order.
    """
    values = np.asarray(norms, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    mean = float(values.mean()) if values.size else 0.0
    if not math.isfinite(mean) or mean <= 0:
        return NO_FLOATS, NO_INTS
    return values[order] / mean, order


def _why_unusable(
    trace: Trace, layer: str, stage: str, step: int, norms: npt.NDArray[np.floating]
) -> str:
    status = status_at(trace, layer, stage=stage, step=step, of="metrics")
    if status != "ok":
        return status
    # NaN in a row of a good status stands for neurons that no process has written.
    return "zero" if np.isfinite(norms).all() else "incomplete"


def _extent(norms: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return the smallest positive and the largest norm / mean over captures, (k, m) norms."""
    means = norms.mean(axis=1, dtype=np.float64)
    usable = np.isfinite(means) & (means > 0)
    lows = np.where(norms > 0, norms, np.inf).min(axis=1)[usable] / means[usable]
    highs = norms.max(axis=1)[usable] / means[usable]
    lows = lows[np.isfinite(lows)]
    return (float(lows.min()), float(highs.max())) if lows.size else (1.0, 1.0)


def _exact(trace: Trace, layer: str, step: int, slot: int) -> list[NormCurve]:
    raw = captured_steps(trace, layer, stage="ns_input", table="updates")
    while (at := at_or_before(raw, step)) is not None:
        try:
            matrix = trace.matrix(at, layer, stage="ns_input")
        except NotCaptured:  # a rank of a live run has not written its rows yet: the capture before
            raw = tuple(one for one in raw if one < at)
            continue
        values, neurons = sorted_ratio(polar_row_norms(matrix))
        return [NormCurve(trace.name, slot, at, values, neurons)] if values.size else []
    return []


def plot(
    what: NeuronNormsInfo, *, theme: Theme, height: int = HEIGHT, neuron: int | None = None
) -> go.Figure:
    """Draw the sorted norms on a log2 axis, labelled at the line ends.

    Args:
        what: the curves.
        theme: the colours.
        height: pixels.
        neuron: the chosen neuron, marked where it stands on each run's curve.
    """
    if not what.curves:
        return empty(what.missing, theme, height=height)
    low, high = what.exponents
    traces = [_line(curve, theme, low, dash="solid", width=2.0) for curve in what.curves]
    exact = what.exact[:1]
    traces += [_line(curve, theme, low, dash="dot", width=1.5, exact=True) for curve in exact]
    ends = [_end(curve, theme, low, high) for curve in what.curves]
    right = margin_for([label.text for label in ends])
    notes = end_labels(ends, plot_height=height - 48)
    notes.append(
        note("all equal", theme, x=0, y=0, xanchor="left", yanchor="bottom", xshift=4, yshift=1)
    )
    notes += [_exact_note(curve, theme, what.curves) for curve in exact]
    if neuron is not None:
        spots = _spots(what, neuron)
        traces += [dot(spot, theme) for spot in spots]
        notes += [dot_label(neuron, spots, (low, high), theme)] if spots else []
    every = 1 if high - low <= 7 else 2
    ticks = [e for e in range(low, high + 1) if e % every == 0]
    return go.Figure(
        data=traces,
        layout=layout(
            theme,
            height=height,
            right=right,
            xaxis=axis(
                theme, title="neurons, sorted (%)", horizontal=True, range=[0, 100], dtick=25
            )
            | {"hoverformat": ".0f", "unifiedhovertitle": {"text": "neurons below: %{x:.0f} %"}}
            | crosshair(theme),
            yaxis=axis(
                theme,
                title="norm / mean",
                horizontal=False,
                range=[low - 0.06, high + 0.06],
                tickvals=ticks,
                ticktext=[power_of_two(e) for e in ticks],
            ),
            shapes=[_all_equal(theme)],
            annotations=notes,
        ),
    )


def _line(
    curve: NormCurve, theme: Theme, low: int, *, dash: str, width: float, exact: bool = False
) -> go.Scatter:
    count = len(curve.values)
    label = escape(run_label(curve.run))
    name = f"{label}, exact orthogonalization" if exact else label
    kept = sorted_places(count)
    values = curve.values[kept]
    return go.Scatter(
        x=percent(count)[kept],
        y=np.log2(np.maximum(values, 2.0**low)),
        mode="lines" if count > 1 else "markers",
        name=name,
        # The neuron is for a click; as float32 both travel in one array of bytes.
        customdata=np.stack([values, curve.neurons[kept]], axis=1).astype(np.float32),
        hovertemplate=f"{name} %{{customdata[0]:.3~g}}<extra></extra>",
        line={
            "color": theme.text if exact else theme.run(curve.slot),
            "width": width,
            "dash": dash,
        },
    )


def _spots(what: NeuronNormsInfo, neuron: int) -> list[Spot]:
    """Return where a neuron stands on each run's curve."""
    found = [(curve, np.flatnonzero(curve.neurons == neuron)) for curve in what.curves]
    return [
        Spot(
            curve.slot,
            float(percent(len(curve.values))[at[0]]),
            math.log2(max(float(curve.values[at[0]]), 2.0 ** what.exponents[0])),
        )
        for curve, at in found
        if at.size
    ]


def _end(curve: NormCurve, theme: Theme, low: int, high: int) -> EndLabel:
    last = math.log2(curve.values[-1]) if curve.values.size else 0.0
    return EndLabel(
        run_short(curve.run), theme.run(curve.slot), (last - low + 0.06) / (high - low + 0.12)
    )


def _exact_note(curve: NormCurve, theme: Theme, curves: Sequence[NormCurve]) -> dict[str, object]:
    """Label the dotted curve from the lower right, which sorted norms leave empty, by a leader."""
    place = round(0.7 * (len(curve.values) - 1))
    of_run = next((one for one in curves if one.run == curve.run), None)
    late = f", step {curve.step}" if of_run is not None and of_run.step != curve.step else ""
    text = f"exact orthogonalization<br>({escape(run_short(curve.run))}{late})"
    return note(
        text,
        theme,
        x=70,
        y=math.log2(max(curve.values[place], 2.0**LOWEST)),
        showarrow=True,
        arrowhead=0,
        arrowwidth=1,
        arrowcolor=theme.reference,
        ax=20,
        ay=96,
        align="left",
    )


def _all_equal(theme: Theme) -> dict[str, object]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 0,
        "y1": 0,
        "line": {"color": theme.reference, "width": 1, "dash": "dash"},
    }


def table(what: NeuronNormsInfo) -> pa.Table:
    """Return the figure's data: a row per run and neuron, and per neuron of the exact curve."""
    schema = {
        "run": pa.string(),
        "curve": pa.string(),
        "layer": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        "neuron": pa.int64(),
        "neurons below (%)": pa.float64(),
        "norm / mean": pa.float64(),
    }
    both = [(one, "captured", what.stage) for one in what.curves]
    both += [(one, "exact orthogonalization", "ns_input") for one in what.exact]
    parts = []
    for curve, kind, stage in both:
        each = [curve.run, kind, what.layer.name, stage, curve.step, curve.neurons]
        each += [percent(len(curve.values)), curve.values]
        parts.append(dict(zip(schema, each, strict=True)))
    return tables.stacked(parts, schema)


def words(what: NeuronNormsInfo) -> str:
    """Return the figure in a sentence: from where to where each run's norms reach."""
    if not what.curves:
        return tables.joined([], what.missing)
    steps = {curve.step for curve in what.curves}
    same = f" at step {whole(steps.pop())}" if len(steps) == 1 else ""
    said = []
    for place, curve in enumerate(what.curves):
        late = "" if same else f" at step {whole(curve.step)}"
        unit = " times the mean" if place == 0 else ""
        low, high = number(float(curve.values[0])), number(float(curve.values[-1]))
        said.append(f"{run_label(curve.run)}{late} from {low} to {high}{unit}")
    return tables.joined(
        [f"Sorted neuron norms of {layer_stage(what.layer, what.stage)}{same}: {', '.join(said)}."],
        what.missing,
    )


def neuron_norms(
    traces: Source,
    layer: str,
    *,
    step: int | None = None,
    stage: str = "update",
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the sorted neuron norms of one layer, one line per run.

    A flat line at 1 moves every neuron by the same amount. The dotted curve is what exact
    orthogonalization would leave (tall layers, where the raw ``ns_input`` was captured): no
    iteration count makes Muon flatter than that.

    Args:
        traces: one trace or several.
        layer: the layer's name.
        step: the captured step, or the nearest earlier one; None for each run's last.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if no trace has the layer, or the theme is unknown.
    """
    return plot(info(traces, layer, step=step, stage=stage), theme=theme_of(theme))
