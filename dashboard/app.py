"""The app: layout once, callbacks that look up, ask a page, and return."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import dash
import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from dash import dcc, html

from optgeom.dashboard import controls, finding_section, state
from optgeom.dashboard.callbacks import PICTURES, register
from optgeom.dashboard.clientside import all_seen
from optgeom.dashboard.data import Runs
from optgeom.dashboard.download import serve_csv
from optgeom.dashboard.live import Live
from optgeom.dashboard.pages import balance
from optgeom.figures.theme import DARK, FONT, LIGHT, Theme, scale_stops
from optgeom.traces.errors import OptgeomError

logger = logging.getLogger(__name__)

# How often the page asks whether something is new. Only a token travels back.
TICK_MS = 2000
PLAY_MS = 350


def create_app(runs_path: str | Path) -> dash.Dash:
    """Build the dashboard for a folder of runs.

    Args:
        runs_path: a folder of traces, or one trace.

    Returns:
        The app; ``serve`` puts it behind waitress, on the loopback address only.

    Raises:
        OptgeomError: if the path holds no trace (an empty folder is fine: it is followed).
    """
    runs = Runs(runs_path)
    _warm_up()
    app = dash.Dash(
        __name__,
        title="optgeom",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        enable_mcp=False,
        add_log_handler=False,
        index_string=_index(),
        on_error=state.report_problem,
    )
    seen = Live()
    app.layout = lambda: _layout(runs, seen)
    register(app, runs, seen)
    serve_csv(app.server, runs, PICTURES)
    return app


def _warm_up() -> None:
    """Import now what pyarrow and plotly import on their first use.

    Where pandas is installed both look for it, and two requests that meet in its import find half
    a module.
    """
    pa.array(np.zeros(1)).to_numpy()
    go.Figure(go.Scatter(x=np.zeros(2), hovertemplate="%{x}")).to_plotly_json()


def _layout(runs: Runs, seen: Live) -> Any:
    token = runs.refresh()
    try:
        live = seen.text(runs, token, time.monotonic())
    except OptgeomError as error:
        # The page opens all the same, and says it where the run would stand.
        logger.warning("the live state cannot be told: %s", error)
        live = ""
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="view"),
            dcc.Store(id="steps", data=[]),
            *(dcc.Store(id=place) for place in (*all_seen(), *finding_section.STORES)),
            dcc.Store(id="token", data=token),
            dcc.Store(id="touched"),
            *(dcc.Store(id=f"page-{path[1:]}-opened") for path in controls.PAGES if path != "/"),
            dcc.Store(id="sink"),
            dcc.Interval(id="tick", interval=TICK_MS),
            dcc.Interval(id="play-clock", interval=PLAY_MS, disabled=True),
            controls.header(live, finding_section.count_link()),
            controls.bar(),
            html.Div(id="problem"),
            html.Main(
                [
                    html.Div(balance.layout(), id="page-balance"),
                    *(html.Div(id=f"page-{path[1:]}") for path in controls.PAGES if path != "/"),
                ],
                id="main",
            ),
        ],
        id="mantine",
        forceColorScheme="light",
        theme={
            "fontFamily": FONT,
            "defaultRadius": 6,
            "primaryColor": "gray",
            "respectReducedMotion": True,
        },
    )


def _index() -> str:
    """Return the page's frame; the colours come from the figures' themes, written once."""
    light, dark = _variables(LIGHT), _variables(DARK)
    style = (
        f":root{{{light}}}"
        f":root[data-mantine-color-scheme=dark]{{{dark}}}"
        "@media (prefers-color-scheme:dark)"
        f"{{:root:not([data-mantine-color-scheme]){{{dark}}}}}"
    )
    return (
        '<!DOCTYPE html><html lang="en"><head>{%metas%}<title>{%title%}</title>'
        '<link rel="icon" href="data:,">'
        f"<style>{style}</style>"
        "{%css%}</head><body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer>"
        "</body></html>"
    )


def _variables(theme: Theme) -> str:
    named = {
        "ground": theme.ground,
        "text": theme.text,
        "muted": theme.muted,
        "grid": theme.grid,
        "reference": theme.reference,
        "run-other": theme.other,
        **{f"run-{slot}": colour for slot, colour in enumerate(theme.runs)},
        "scale-diverging": ",".join(scale_stops(theme, "diverging")),
        "scale-sequential": ",".join(scale_stops(theme, "sequential")),
    }
    return "".join(f"--{name}:{value};" for name, value in named.items())
