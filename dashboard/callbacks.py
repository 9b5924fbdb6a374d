"""Wiring: callbacks of a line each, over plain functions that tests call without a browser."""

from __future__ import annotations

import time
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, ctx, no_update

from optgeom.dashboard.data import Runs
from optgeom.dashboard.live import Live
from optgeom.dashboard.pages import balance
from optgeom.dashboard.pages import runs as runs_page
from optgeom.dashboard.state import chosen, control_values, resolved
from optgeom.dashboard.view import View, parse, search

Stored = dict[str, Any] | None
PAGE = {"path": Input("url", "pathname"), "view": Input("view", "data")}
DRAWN = {**PAGE, "scheme": Input("scheme", "data")}


def register(app: dash.Dash, runs: Runs) -> None:
    """Wire the app's callbacks to the runs."""
    _controls(app, runs)
    _balance(app, runs)
    _runs(app, runs)
    _live(app, runs)
    _clientside(app)


def shown(path: str | None, page: str, view: Stored) -> View | None:
    """Return the view if ``page`` is the shown one and there is anything to draw, else None."""
    if view is None or ((path or "/").rstrip("/") or "/") != page:
        return None
    return parse(view["q"])


def _controls(app: dash.Dash, runs: Runs) -> None:
    outputs = {
        "view": Output("view", "data"),
        "a_data": Output("run-a", "data"),
        "a": Output("run-a", "value"),
        "a_mark": Output("run-a", "leftSection"),
        "b_data": Output("run-b", "data"),
        "b": Output("run-b", "value"),
        "b_mark": Output("run-b", "leftSection"),
        "more_data": Output("more", "children"),
        "more": Output("more", "value"),
        "layer_data": Output("layer", "data"),
        "layer": Output("layer", "value"),
        "rail": Output("rail", "value"),
        "stage_data": Output("stage", "data"),
        "stage": Output("stage", "value"),
        "slider_max": Output("slider", "max"),
        "slider": Output("slider", "value"),
        "slider_label": Output("slider", "label"),
        "slider_off": Output("slider", "disabled"),
        "step_text": Output("step-text", "children"),
        "by": Output("loss-by", "value"),
        "more_text": Output("more-button", "children"),
        "more_off": Output("more-button", "disabled"),
        "swap_off": Output("swap", "disabled"),
    }
    inputs = {
        "url": Input("url", "search"),
        "a": Input("run-a", "value"),
        "b": Input("run-b", "value"),
        "more": Input("more", "value"),
        "layer": Input("layer", "value"),
        "rail": Input("rail", "value"),
        "stage": Input("stage", "value"),
        "slider": Input("slider", "value"),
        "by": Input("loss-by", "value"),
        "swap": Input("swap", "n_clicks"),
        "theme": Input("theme", "n_clicks"),
        "token": Input("token", "data"),
    }

    def controls(**given: Any) -> dict[str, Any]:
        before = given["before"]
        view = parse(before["q"]) if before else parse(given["url"])
        given["steps"] = before["steps"] if before else []
        trigger = ctx.triggered_id if before else "url"
        with runs.lock:
            after = resolved(runs, chosen(trigger, view, given))
            same = before and search(after) == before["q"] and given["token"] == before["token"]
            if same and trigger != "url":
                raise dash.exceptions.PreventUpdate
            return control_values(runs, after, given["token"])

    state = {"scheme": State("scheme", "data"), "before": State("view", "data")}
    app.callback(output=outputs, inputs=inputs, state=state)(controls)


def _balance(app: dash.Dash, runs: Runs) -> None:
    def headline(path: str, view: Stored) -> Any:
        now = shown(path, "/", view)
        return balance.headline(runs, now) if now else no_update

    def rail(path: str, view: Stored) -> Any:
        now = shown(path, "/", view)
        return balance.rail_rows(runs, now) if now else (no_update,) * 3

    def norms(path: str, view: Stored, scheme: Any) -> Any:
        now = shown(path, "/", view)
        return balance.norms_figure(runs, now, scheme) if now and scheme else (no_update,) * 2

    def spectrum(path: str, view: Stored, scheme: Any) -> Any:
        now = shown(path, "/", view)
        return balance.spectrum_figure(runs, now, scheme) if now and scheme else (no_update,) * 2

    wire = app.callback
    wire(Output("headline", "children"), inputs=PAGE)(headline)
    rails = [Output(name, "children") for name in ("rail", "rail-scale", "rail-runs")]
    wire(*rails, inputs=PAGE)(rail)
    wire(Output("norms", "figure"), Output("norms-note", "children"), inputs=DRAWN)(norms)
    wire(Output("spectrum", "figure"), Output("spectrum-note", "children"), inputs=DRAWN)(spectrum)


def _runs(app: dash.Dash, runs: Runs) -> None:
    def loss(path: str, view: Stored, scheme: Any) -> Any:
        now = shown(path, "/runs", view)
        return runs_page.loss_figure(runs, now, scheme) if now and scheme else (no_update,) * 2

    def config(path: str, view: Stored, everything: bool | None) -> Any:
        now = shown(path, "/runs", view)
        if now is None:
            return (no_update,) * 3
        return runs_page.config_table(runs, now, everything=bool(everything))

    def cost(path: str, view: Stored) -> Any:
        now = shown(path, "/runs", view)
        return runs_page.cost_table(runs, now) if now else (no_update,) * 2

    wire = app.callback
    wire(Output("loss", "figure"), Output("loss-note", "children"), inputs=DRAWN)(loss)
    table = [Output("config-grid", "rowData"), Output("config-grid", "columnDefs")]
    switch = {**PAGE, "everything": Input("config-all", "checked")}
    wire(*table, Output("config-note", "children"), inputs=switch)(config)
    wire(Output("cost-grid", "rowData"), Output("cost-grid", "columnDefs"), inputs=PAGE)(cost)


def _live(app: dash.Dash, runs: Runs) -> None:
    seen = Live()

    def live(_: int | None, token: str | None) -> Any:
        fresh = runs.refresh()
        return (no_update if fresh == token else fresh), seen.text(runs, fresh, time.monotonic())

    def retry(clicks: int | None) -> Any:
        return (None, f"{runs.refresh()}-{clicks}") if clicks else (no_update, no_update)

    wire = app.callback
    wire(
        Output("token", "data"),
        Output("live", "children"),
        Input("tick", "n_intervals"),
        State("token", "data"),
    )(live)
    wire(
        Output("problem", "children"),
        Output("token", "data", allow_duplicate=True),
        Input("retry", "n_clicks"),
        prevent_initial_call=True,
    )(retry)


def _clientside(app: dash.Dash) -> None:
    def run(name: str, *wires: Any, initial: bool = True) -> None:
        function = ClientsideFunction(namespace="optgeom", function_name=name)
        app.clientside_callback(function, *wires, prevent_initial_call=not initial)

    tabs = ({"tab": "/"}, {"tab": "/runs"})
    run(
        "scheme",
        Output("scheme", "data"),
        Output("mantine", "forceColorScheme"),
        Input("view", "data"),
        State("scheme", "data"),
    )
    sink = Output("sink", "data", allow_duplicate=True)
    run("reveal", sink, Input("rail", "children"), initial=False)
    run("address", *(Output(tab, "href") for tab in tabs), Input("view", "data"))
    run(
        "route",
        Output("page-balance", "style"),
        Output("page-runs", "style"),
        *(Output(tab, "className") for tab in tabs),
        Output("bar", "className"),
        Input("url", "pathname"),
    )
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
        Input("rail", "value"),
        State("rail-box", "className"),
        initial=False,
    )
    run(
        "panel",
        Output("sink", "data"),
        Input({"panel": dash.ALL, "action": dash.ALL}, "n_clicks"),
        initial=False,
    )
