"""Runs: what was trained, how, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import dcc, html

from optgeom.dashboard import finding_section
from optgeom.dashboard.capture import Row, configuration, cost
from optgeom.dashboard.data import Runs
from optgeom.dashboard.grids import grid
from optgeom.dashboard.looks import Seen, step_of
from optgeom.dashboard.picture import RUNS, Explained, Group, Picture, panel, stores
from optgeom.dashboard.view import View
from optgeom.figures import losses
from optgeom.figures.formats import whole
from optgeom.figures.identity import titled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from optgeom.figures.theme import Theme
    from optgeom.traces.store import Trace


def layout() -> html.Div:
    """Return the page without its data."""
    return html.Div(
        [
            html.Div(id="runs-head"),
            stores(GROUPS),
            dcc.Store(id="tables-marks"),
            html.Div(
                [
                    dmc.SegmentedControl(
                        id="loss-by",
                        data=[
                            {"value": "step", "label": "by step"},
                            {"value": "tokens", "label": "by tokens"},
                            {"value": "time", "label": "by time"},
                        ],
                        value="step",
                        size="xs",
                    ),
                    panel(LOSS),
                ],
                className="loss-box",
            ),
            finding_section.section(),
            html.Section(
                [
                    html.Div(
                        [
                            html.H2("Configuration"),
                            html.Span(id="config-note", className="panel-note"),
                            html.Span(className="grow"),
                            dmc.Switch(id="config-all", label="all settings", size="xs"),
                        ],
                        className="panel-head",
                    ),
                    grid("config-grid"),
                ],
                className="panel",
            ),
            html.Section(
                [html.Div([html.H2("Capture")], className="panel-head"), grid("cost-grid")],
                className="panel",
            ),
        ],
        className="content wide runs",
    )


def shown(runs: Runs, view: View) -> list[Trace]:
    """Return the runs of this page: all of the folder, those under comparison first."""
    chosen = runs.some(view.runs)
    return chosen + [trace for trace in runs.all() if trace not in chosen]


def _loss(runs: Runs, view: View) -> Seen | None:
    traces = shown(runs, view)
    if not traces:
        return None
    span = view.span if view.loss_by == "step" else None
    what = losses.info(traces, against=view.loss_by, slots=runs.slots(), span=span)
    return Seen(what, step_of(runs, view))


def _draw_loss(seen: Seen, view: View, theme: Theme) -> go.Figure:
    cursor = seen.step if view.loss_by == "step" else None
    return losses.plot(seen.what, theme=theme, cursor=cursor)


def _lacking(seen: Seen, view: View) -> str:
    return " ".join(one.what for one in seen.what.missing) if seen.what.curves else ""


LOSS = Picture(
    name="loss",
    title="Loss",
    explain=Explained(
        text="As logged, not smoothed. Time is the sum of the logged step times, so capture and "
        "other runs' load do not blur it. Of more than 1,200 points each bucket keeps its first, "
        "smallest, largest and last.",
    ),
    look=_loss,
    needs=(*RUNS, "loss_by", "span"),
    draw=_draw_loss,
    note=_lacking,
    table=losses.table,
    words=losses.words,
)
GROUPS = (Group((LOSS,), still=True),)


def config_table(
    runs: Runs, view: View, *, everything: bool
) -> tuple[list[dict[str, str]], list[dict[str, Any]], str]:
    """Return the configuration's rows, its columns and how many rows are hidden."""
    traces = shown(runs, view)
    rows = configuration(traces)
    differing = [row for row in rows if row.differs]
    drawn = list(rows) if everything or len(traces) == 1 else differing
    if len(traces) == 1:
        note = f"{whole(len(rows))} settings"
    elif everything:
        note = f"{whole(len(rows))} settings, {whole(len(differing))} differ"
    else:
        note = f"{whole(len(differing))} of {whole(len(rows))} settings differ"
    return _records(drawn), _columns(traces), note


def cost_table(runs: Runs, view: View) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return what capture cost each run."""
    traces = shown(runs, view)
    return _records(cost(traces)), _columns(traces)


def _records(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {"name": row.name} | {f"run{place}": value for place, value in enumerate(row.values)}
        for row in rows
    ]


def _columns(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    # Fields are numbered, since a run's name may hold a dot, which the grid reads as a path.
    first = {
        "field": "name",
        "headerName": "",
        "minWidth": 160,
        "flex": 2,
        "cellClass": "grid-name",
    }
    return [
        first,
        *(
            {
                "field": f"run{place}",
                "headerName": titled(trace),
                "minWidth": 120,
                "flex": 3,
            }
            for place, trace in enumerate(traces)
        ),
    ]
