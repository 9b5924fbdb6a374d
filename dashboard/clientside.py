"""The callbacks that run in the browser: their functions stand in assets/functions.js."""

from __future__ import annotations

from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State

from optgeom.dashboard import controls


def seen_by(page: str, *, still: bool = False) -> str:
    """Return the id of the store that a page looks at: the view, only while the page is shown.

    Args:
        page: its path.
        still: the same without the step, for what stays as it is while steps go by.

    >>> seen_by("/"), seen_by("/runs", still=True)
    ('sees-balance', 'sees-runs-still')
    """
    return f"sees-{page.strip('/') or 'balance'}{'-still' if still else ''}"


def all_seen() -> list[str]:
    """Return the ids of all these stores, and of the one that the table of neurons looks at."""
    both = [seen_by(path, still=still) for path in controls.PAGES for still in (False, True)]
    return [*both, "sees-table"]


TOUCHED = {
    "a": "run-a",
    "b": "run-b",
    "more": "more",
    "layer": "layer",
    "stage": "stage",
    "step": "slider",
    "metric": "metric",
    "by": "loss-by",
}
"""What a control's value is of the view, and the control."""


def run_in_browser(app: dash.Dash) -> None:
    """Wire what needs no server: the view's way to the shown page, theme, tabs, play, drawer."""

    def run(name: str, *wires: Any, initial: bool = True) -> None:
        function = ClientsideFunction(namespace="optgeom", function_name=name)
        app.clientside_callback(function, *wires, prevent_initial_call=not initial)

    tabs = [{"tab": path} for path in controls.PAGES]
    places = ["balance", *(path[1:] for path in controls.PAGES if path != "/")]
    sink = Output("sink", "data", allow_duplicate=True)
    run(
        "look",
        Output("sink", "data"),
        Input("view", "data"),
        Input("url", "pathname"),
        State("steps", "data"),
    )
    run(
        "address",
        *(Output(tab, "href") for tab in tabs),
        Input("view", "data"),
        Input("url", "pathname"),
    )
    run(
        "route",
        *(Output(f"page-{place}", "style") for place in places),
        *(Output(tab, "className") for tab in tabs),
        Output("bar", "className"),
        Input("url", "pathname"),
    )
    run(
        "rail",
        sink,
        Input("rail-rows", "data"),
        Input("rail-values", "data"),
        Input("view", "data"),
        initial=False,
    )
    run("table", sink, Input("view", "data"), initial=False)
    run(
        "playing",
        Output("play-clock", "disabled"),
        Output("play-glyph", "className"),
        Output("play", "title"),
        Input("play", "n_clicks"),
        State("play-clock", "disabled"),
        initial=False,
    )
    run(
        "advance",
        Output("slider", "value", allow_duplicate=True),
        Input("play-clock", "n_intervals"),
        State("slider", "value"),
        State("slider", "max"),
        State("view", "data"),
        initial=False,
    )
    run(
        "drawer",
        Output("rail-box", "className"),
        Output("scrim", "className"),
        Input("rail-button", "n_clicks"),
        Input("scrim", "n_clicks"),
        Input("layer", "value"),
        State("rail-box", "className"),
        initial=False,
    )
    # Controls tell what was touched by hand, so that nothing is forgotten while an answer is on its
    # way, and figures can be asked for before it has come.
    for name, control in TOUCHED.items():
        wires = Input(control, "value"), State("view", "data"), State("steps", "data")
        run(f"touched_{name}", sink, *wires, initial=False)
    run("swap", sink, Input("swap", "n_clicks"), initial=False)
    run("theme", sink, Input("theme", "n_clicks"), initial=False)
    run("everything", sink, Input("span-text", "n_clicks"), initial=False)
    run("neuron", sink, Input("neurons", "cellClicked"), initial=False)
    run(
        "search",
        Output("neurons", "dashGridOptions"),
        Input("neurons-search", "value"),
        State("neurons", "dashGridOptions"),
        initial=False,
    )
    run(
        "csv", Output("neurons", "exportDataAsCsv"), Input("neurons-csv", "n_clicks"), initial=False
    )
