"""Layers: where in the network?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import html

from optgeom.dashboard.data import Runs
from optgeom.dashboard.looks import COLUMNS, Seen, run_at, shared_ends, step_of
from optgeom.dashboard.parts import colour_bar
from optgeom.dashboard.picture import RUNS, Explained, Group, Picture, panel, stores
from optgeom.dashboard.view import View
from optgeom.figures import layer_grid
from optgeom.figures.formats import number, short
from optgeom.geometry.catalogue import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from optgeom.figures.theme import Theme
    from optgeom.traces.store import Trace

FIRST = (
    "neuron_norm_cv",
    "neuron_norm_max_min",
    "condition_number",
    "stable_rank",
    "effective_rank",
    "update_rms",
)
"""What people ask for first; the rest follows in the catalogue's groups."""


def layout() -> html.Div:
    """Return the page without its data."""
    return html.Div(
        [
            html.Div(id="layers-head"),
            stores(GROUPS),
            html.Div(
                [
                    html.Div(
                        [
                            html.Label("Metric", htmlFor="metric", className="quiet"),
                            dmc.Select(
                                id="metric",
                                className="pick pick-metric",
                                searchable=True,
                                allowDeselect=False,
                                size="xs",
                                maxDropdownHeight=420,
                                comboboxProps={"width": 320, "shadow": "none"},
                                nothingFoundMessage="no such metric",
                            ),
                            html.Div(id="metric-help", className="metric-help"),
                        ],
                        className="metric-row",
                    ),
                    colour_bar("sequential", (), across=True, id="layers-0-bar"),
                    html.Div(
                        [panel(one) for group in GROUPS for one in group.pictures],
                        className="columns",
                    ),
                ],
                className="figures",
            ),
        ],
        className="content wide",
    )


def metric_options(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Return the metric picker's groups: six first, then those of the catalogue's groups.

    Args:
        traces: the shown runs; a metric that none of them has a column for is left out.
    """
    held = {name for trace in traces for of in trace.info.columns.values() for name in of}
    known = [name for name in METRICS if name in held or not traces]
    first = [name for name in FIRST if name in known]
    groups: dict[str, list[str]] = {"First": first} if first else {}
    for name in known:
        if name not in first:
            groups.setdefault(METRICS[name].group, []).append(name)
    return [
        {
            "group": group,
            "items": [{"value": name, "label": METRICS[name].title} for name in names],
        }
        for group, names in groups.items()
    ]


def _look(place: int, runs: Runs, view: View) -> Seen | None:
    if run_at(runs, view, place) is None:
        return None
    shown = runs.some(view.runs)[:COLUMNS]
    infos = [layer_grid.info(one, view.metric, stage=view.stage, span=view.span) for one in shown]
    scale = layer_grid.shared_scale(infos)
    return Seen(infos[place], step_of(runs, view), shared_ends(runs, view, "metrics"), scale)


def _draw(seen: Seen, view: View, theme: Theme) -> go.Figure:
    return layer_grid.plot(
        seen.what,
        theme=theme,
        cursor=seen.step,
        scale=seen.scale,
        colorbar=False,
        ends=seen.ends,
    )


def _bar(seen: Seen) -> list[tuple[float, str]]:
    scale = seen.scale
    ticks = scale.ticks()
    if scale.below:
        # The end of the scale is not the end of the values.
        ticks = [one for one in ticks if scale.place(one) > 0.3]
        return [
            (0.0, f"{short(scale.low)} or less"),
            *((scale.place(t), number(t)) for t in ticks),
        ]
    return [(scale.place(one), number(one)) for one in ticks]


def _picture(place: int) -> Picture:
    return Picture(
        name=f"layers-{place}",
        title="Layers over steps",
        explain=Explained(
            text="One row per layer, kinds apart, depth downward; one column per capture. All runs "
            "share one scale. Above 168 captures a cell shows the value farthest from the layer's "
            "median. Click a cell to open Balance there; drag to zoom the steps.",
        ),
        look=partial(_look, place),
        needs=(*RUNS, "stage", "metric", "span"),
        draw=_draw,
        run=place,
        note=lambda seen, view: METRICS[view.metric].title,
        table=layer_grid.table,
        words=layer_grid.words,
        bar=_bar if place == 0 else None,
        height=400,
    )


GROUPS = tuple(Group((_picture(place),), still=True) for place in range(COLUMNS))
"""Each for itself: two of 200 layers together would make too large an answer."""
