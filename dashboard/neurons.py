"""The table of dominant and dormant neurons: who moves most and least, and for how long?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import html

from optgeom.dashboard.data import Runs
from optgeom.dashboard.grids import grid
from optgeom.dashboard.looks import shown_step
from optgeom.dashboard.view import View
from optgeom.figures.extremes import extremes
from optgeom.figures.names import run_label
from optgeom.figures.reading import layer_in

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

COUNT = 20


def box() -> list[Any]:
    """Return the table without its data: a search, a CSV button, the grid."""
    return [
        html.Div(
            [
                dmc.TextInput(
                    id="neurons-search",
                    placeholder="search: a neuron, a run, dormant",
                    size="xs",
                    className="pick pick-search",
                    debounce=150,
                    **{"aria-label": "Search the table of neurons"},
                ),
                html.Button("Save as CSV", id="neurons-csv", className="text-button"),
                html.Span(id="neurons-note", className="panel-note"),
            ],
            className="metric-row",
        ),
        grid("neurons", height="360px", row_id="params.data.id"),
    ]


def columns() -> list[dict[str, Any]]:
    """Return the grid's columns."""
    three = {"function": "params.value == null ? '' : d3.format('.3~g')(params.value)"}
    number = {"type": "rightAligned", "valueFormatter": three, "filter": False, "flex": 2}
    return [
        {"field": "run", "headerName": "run", "flex": 3, "minWidth": 120},
        {"field": "which", "headerName": "moves", "flex": 2, "minWidth": 96},
        {"field": "neuron", "headerName": "neuron", "type": "rightAligned", "flex": 2},
        {"field": "ratio", "headerName": "norm / mean", **number},
        {"field": "norm", "headerName": "norm", **number},
        {"field": "mean", "headerName": "norm / mean, all captures", **number, "flex": 3},
        {"field": "times", "headerName": f"captures among {COUNT}", **number, "flex": 3},
        {"field": "captures", "headerName": "of", **number, "flex": 1},
    ]


def rows(runs: Runs, view: View) -> tuple[list[dict[str, Any]], str]:
    """Return the table's rows and a note that says which capture they are of."""
    traces = runs.some([run for run in (view.b, view.a) if run])
    if view.layer is None or not traces:
        return [], ""
    step = shown_step(view, runs.some(view.runs))
    found: list[dict[str, Any]] = []
    said: list[str] = []
    for trace in traces:
        mine, at = _of(trace, view.layer, view.stage, step)
        found += mine
        told = "not captured" if at is None else f"step {at:,}"
        said.append(f"{run_label(trace.name)}: {told}")
    return found, " \N{MIDDLE DOT} ".join(said)


def _of(
    trace: Trace, layer: str, stage: str, step: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    if layer_in(trace, layer) is None:
        return [], None
    what = extremes(trace, layer, step=step, stage=stage, count=COUNT)
    columns = (what.which, what.neuron, what.norm, what.ratio, what.mean_ratio, what.times)
    lists = (one if isinstance(one, tuple) else one.tolist() for one in columns)
    run = run_label(trace.name)
    return [
        {
            "id": f"{trace.name} {which} {neuron}",
            "run": run,
            "which": which,
            "neuron": neuron,
            "norm": norm,
            "ratio": ratio,
            "mean": mean,
            "times": times,
            "captures": what.captures,
        }
        for which, neuron, norm, ratio, mean, times in zip(*lists, strict=True)
    ], what.step
