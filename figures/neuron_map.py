"""Every neuron of one layer over the captured steps: which ones move more, and do they stay so?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import pyarrow as pa

from optgeom.figures import columns, tables
from optgeom.figures.arrays import (
    NO_FLOAT_CELLS,
    NO_FLOATS,
    NO_INT_CELLS,
    NO_INTS,
    Floats,
    Ints,
    small_whole,
)
from optgeom.figures.bins import bins_of, winners
from optgeom.figures.chosen_neuron import row_label, row_line
from optgeom.figures.columns import Columns
from optgeom.figures.empty import empty
from optgeom.figures.extremes import Extremes as Extremes
from optgeom.figures.extremes import extremes as extremes
from optgeom.figures.formats import number, whole
from optgeom.figures.names import layer_stage, layer_title, run_label
from optgeom.figures.reading import (
    Missing,
    Source,
    captured_steps,
    find_layer,
    missing_table,
    one_trace,
)
from optgeom.figures.scales import Scale, bar, colours
from optgeom.figures.statuses import nothing_in
from optgeom.figures.steps import Span, drawn, reach, step_layout
from optgeom.figures.theme import Theme, ThemeName, axis, theme_of

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo

HEIGHT = 280
RIGHT, BAR = 16, 96
SCALE = Scale(0.25, 4.0, True)
TICKS = ((0.25, "1/4 or less"), (0.5, "1/2"), (1.0, "1"), (2.0, "2"), (4.0, "4 or more"))


class NeuronHeatmapInfo(NamedTuple):
    """What the figure draws.

    Attributes:
        run: the run.
        title: the layer's display name.
        layer: the layer.
        stage: the stage of the norms.
        steps: the captured steps of the span and one beyond either end.
        columns: how they are laid out.
        edges: where rows begin and end, in % of the neurons.
        values: (rows, columns) norm / mean, the smallest mean norm first; NaN where the whole
            matrix is zero or not finite.
        neurons: the neuron that each value is of.
        at: the captured step that each value is of, -1 where there is none.
        order: every neuron by its mean norm over all captures, smallest first.
        ends: where the step axis begins and ends.
        span: the zoom; None for all steps.
        missing: what the run lacks.
    """

    run: str
    title: str
    layer: LayerInfo
    stage: str
    steps: Ints
    columns: Columns
    edges: Floats
    values: Floats
    neurons: Ints
    at: Ints
    order: Ints
    ends: Span
    span: Span | None
    missing: tuple[Missing, ...]

    @property
    def total(self) -> int:
        """Neurons of the layer."""
        return len(self.order)

    def place_of(self, neuron: int) -> float | None:
        """Return where a neuron's row stands, in % of the neurons; None where there is none."""
        found = np.flatnonzero(self.order == neuron)
        return 100 * (float(found[0]) + 0.5) / self.total if found.size else None


def info(
    source: Source, layer: str, *, stage: str = "update", span: Span | None = None
) -> NeuronHeatmapInfo:
    """Collect the neuron norms of one layer at the captured steps.

    Rows are sorted by mean norm over all captures: a zoom moves no row.

    Args:
        source: one run.
        layer: the layer's name.
        stage: the stage of the norms.
        span: the first and last step shown; None for all.
    """
    trace = one_trace(source)
    described = find_layer([trace], layer)
    title = layer_title(described)
    missing = None
    if not captured_steps(trace, layer, stage=stage, table="neurons"):
        missing = missing_table(trace, title=title, stage=stage, table="neurons")
    else:
        steps, norms = trace.neurons(layer, stage=stage)
        means = norms.mean(axis=1, dtype=np.float64)
        usable = np.isfinite(means) & (means > 0)
        if not usable.any():
            missing = nothing_in(trace, title=title, stage=stage, table="metrics", layer=layer)
    if missing is not None:
        return NeuronHeatmapInfo(
            trace.name,
            title,
            described,
            stage,
            steps=NO_INTS,
            columns=columns.NO_COLUMNS,
            edges=NO_FLOATS,
            values=NO_FLOAT_CELLS,
            neurons=NO_INT_CELLS,
            at=NO_INT_CELLS,
            order=NO_INTS,
            ends=reach([], span),
            span=span,
            missing=(missing,),
        )
    order = np.argsort(norms[usable].mean(axis=0, dtype=np.float64), kind="stable")
    kept = drawn(steps, span)
    laid = columns.columns_of(steps[kept])
    bins = bins_of(len(order))
    ranks, scores = winners(_far(norms[kept], means[kept])[:, order], bins)
    picked = columns.pick(scores.T, laid)
    there = np.maximum(picked, 0)
    neurons = order[np.take_along_axis(ranks.T, there, axis=1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = norms[kept][there, neurons].astype(np.float64) / means[kept][there]
    values = np.where((picked >= 0) & usable[kept][there], values, np.nan)
    return NeuronHeatmapInfo(
        trace.name,
        title,
        described,
        stage,
        steps[kept],
        laid,
        100 * bins.edges / len(order),
        values,
        neurons,
        np.where(np.isfinite(values), steps[kept][there], -1),
        order,
        reach([steps], span),
        span,
        (),
    )


def _far(norms: npt.NDArray[Any], means: Floats) -> npt.NDArray[Any]:
    """Return how far each norm is from the mean, up or down: the larger of ratio and 1 / ratio.

    A norm of 0 is the farthest of all. A logarithm would order them the same and cost more.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = norms / means[:, None].astype(norms.dtype)
        far: npt.NDArray[Any] = np.maximum(ratio, 1 / ratio)
    return far


def plot(
    what: NeuronHeatmapInfo,
    *,
    theme: Theme,
    height: int = HEIGHT,
    cursor: int | None = None,
    neuron: int | None = None,
    colorbar: bool = True,
    ends: Span | None = None,
) -> go.Figure:
    """Draw norm / mean, neuron by step, on the diverging scale from 1/4 to 4, logarithmic.

    Args:
        what: the values.
        theme: the colours.
        height: pixels.
        cursor: the chosen step.
        neuron: the chosen neuron, whose place is marked.
        colorbar: False leaves the bar away, for a page that draws one of its own.
        ends: the step axis, shared with other runs; by default that of this run.
    """
    if what.missing:
        return empty(what.missing, theme, height=height)
    data = [
        go.Heatmap(
            z=what.values.astype(np.float32),
            x=what.columns.edges,
            y=what.edges,
            customdata=small_whole(np.maximum(what.at, 0), what.neurons),
            hoverongaps=False,
            hovertemplate="step %{customdata[0]:,d}<br>neuron %{customdata[1]:,d}<br>"
            "%{z:.3~g} \N{MULTIPLICATION SIGN} mean<extra></extra>",
            showscale=False,
            **colours(SCALE, theme, "diverging"),
        )
    ]
    if colorbar:
        data.append(bar(SCALE, theme, "diverging", ticks=TICKS))
    place = None if neuron is None else what.place_of(neuron)
    return go.Figure(
        data=data,
        layout=step_layout(
            theme,
            ends=ends if ends is not None and what.span is None else what.ends,
            cursor=cursor,
            over_cells=True,
            shapes=[] if place is None else [row_line(place, theme)],
            annotations=[] if place is None else [row_label(neuron or 0, place, theme)],
            height=height,
            right=BAR if colorbar else RIGHT,
            hovermode="closest",
            yaxis=axis(
                theme,
                title="neurons by mean norm (%)",
                horizontal=False,
                showgrid=False,
                range=[0, 100],
                dtick=25,
            ),
        ),
    )


def table(what: NeuronHeatmapInfo) -> pa.Table:
    """Return the figure's data: a row per drawn cell of the span that holds a number."""
    schema = {
        "run": pa.string(),
        "layer": pa.string(),
        "stage": pa.string(),
        "step": pa.int64(),
        "neuron": pa.int64(),
        "norm / mean": pa.float64(),
    }
    at = np.nonzero(columns.usable(what.values, what.at, what.span))
    each = [what.run, what.layer.name, what.stage, what.at[at], what.neurons[at], what.values[at]]
    return tables.stacked([dict(zip(schema, each, strict=True))] if len(at[0]) else [], schema)


def words(what: NeuronHeatmapInfo) -> str:
    """Return the figure in a sentence: its smallest and largest entry."""
    usable = columns.usable(what.values, what.at, what.span)
    if not usable.any():
        nothing = "" if what.missing else f"{run_label(what.run)} has no norm in these steps."
        return tables.joined([nothing], what.missing)
    low = np.where(usable, what.values, np.inf).argmin()
    high = np.where(usable, what.values, -np.inf).argmax()
    least, most = (
        f"{number(float(what.values.flat[one]))} times the mean (neuron "
        f"{whole(int(what.neurons.flat[one]))}, step {whole(int(what.at.flat[one]))})"
        for one in (low, high)
    )
    steps = what.at[usable]
    return tables.joined(
        [
            f"Norms of the {whole(what.total)} neurons of {layer_stage(what.layer, what.stage)} of "
            f"{run_label(what.run)} from step {whole(int(steps.min()))} to "
            f"{whole(int(steps.max()))}: from {least} to {most}."
        ],
        what.missing,
    )


def neuron_heatmap(
    trace: Source, layer: str, *, stage: str = "update", theme: ThemeName = "light"
) -> go.Figure:
    """Draw every neuron's norm over the captured steps, each step divided by its mean.

    Rows are sorted by mean norm over the captured steps. Above 256 neurons they are binned, and a
    bin shows its entry farthest from 1, never the mean.

    Args:
        trace: one run, or a source of exactly one.
        layer: the layer's name.
        stage: ``update`` or another captured stage.
        theme: ``"light"`` or ``"dark"``.

    Raises:
        OptgeomError: if there are several runs, the trace has no such layer, or the theme is
            unknown.
    """
    return plot(info(trace, layer, stage=stage), theme=theme_of(theme))
