"""Runs: what was trained, how, and at what cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import html

from optgeom.dashboard.capture import Row, configuration, cost
from optgeom.dashboard.data import Runs
from optgeom.dashboard.parts import panel, text_help
from optgeom.dashboard.view import View
from optgeom.figures import losses
from optgeom.figures.formats import whole
from optgeom.figures.names import run_label
from optgeom.figures.theme import ThemeName, theme_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optgeom.traces.store import Trace


# Variables of the page, so that the grid follows its theme.
_GRID = {
    "backgroundColor": "var(--ground)",
    "foregroundColor": "var(--text)",
    "headerBackgroundColor": "var(--ground)",
    "headerTextColor": "var(--text)",
    "borderColor": "var(--grid)",
    "rowHoverColor": "var(--tint)",
    "fontFamily": "inherit",
    "fontSize": 14,
    "headerFontSize": 14,
    "wrapperBorderRadius": 6,
    "cellHorizontalPadding": 16,
    "columnBorder": False,
}


def layout() -> html.Div:
    """Return the page without its data."""
    return html.Div(
        [
            html.Div(id="runs-empty"),
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
                    panel(
                        "loss",
                        "Loss",
                        text_help(
                            "As logged, not smoothed. Time is the sum of the logged step times, "
                            "so capture and other runs' load do not blur it.",
                            label="What the loss shows",
                        ),
                    ),
                ],
                className="loss-box",
            ),
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
                    _grid("config-grid"),
                ],
                className="panel",
            ),
            html.Section(
                [html.Div([html.H2("Capture")], className="panel-head"), _grid("cost-grid")],
                className="panel",
            ),
        ],
        className="content runs",
    )


def _grid(name: str) -> dag.AgGrid:
    return dag.AgGrid(
        id=name,
        rowData=[],
        columnDefs=[],
        className="grid",
        defaultColDef={"sortable": False, "resizable": True, "wrapText": True, "autoHeight": True},
        dashGridOptions={
            "domLayout": "autoHeight",
            "rowHeight": 32,
            "headerHeight": 32,
            "enableCellTextSelection": True,
            "suppressMovableColumns": True,
            "suppressCellFocus": True,
            "theme": {"function": f"themeQuartz.withParams({json.dumps(_GRID)})"},
        },
        style={"height": None},
    )


def shown(runs: Runs, view: View) -> list[Trace]:
    """Return the runs of this page: all of the folder, those under comparison first."""
    chosen = runs.some(view.runs)
    return chosen + [trace for trace in runs.all() if trace not in chosen]


def loss_figure(runs: Runs, view: View, scheme: ThemeName) -> tuple[go.Figure, str]:
    """Return the loss of every run, and what runs lack."""
    traces = shown(runs, view)
    if not traces:
        return go.Figure(layout={"template": "none"}), ""
    what = losses.info(traces, against=view.loss_by, slots=runs.slots())
    note = " ".join(one.what for one in what.missing) if what.curves else ""
    return losses.plot(what, theme=theme_of(scheme)), note


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
                "headerName": run_label(trace.name),
                "minWidth": 120,
                "flex": 3,
            }
            for place, trace in enumerate(traces)
        ),
    ]
