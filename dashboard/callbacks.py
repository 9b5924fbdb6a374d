"""Wiring: callbacks of a line each, over plain functions that tests call without a browser."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, ctx, no_update

from optgeom.dashboard import (
    controls,
    headline,
    neurons,
)
from optgeom.dashboard.data import Runs
from optgeom.dashboard.live import Live
from optgeom.dashboard.pages import balance, layers, spectra
from optgeom.dashboard.pages import runs as runs_page
from optgeom.dashboard.parts import metric_help
from optgeom.dashboard.picture import Picture, answer
from optgeom.dashboard.state import chosen, control_values, resolved, untold
from optgeom.dashboard.view import View, parse, search

Stored = dict[str, Any] | None
PAGE = {"path": Input("url", "pathname"), "view": Input("view", "data")}
ROOMS = {"/": balance, "/spectra": spectra, "/layers": layers, "/runs": runs_page}
"""The module of each page."""

PICTURES: dict[str, Picture] = {
    picture.name: picture for room in ROOMS.values() for picture in room.PICTURES
}
"""Every figure of every page, by name."""


# Seconds: any number of open tabs make the server look at the folder once in so long.
LOOK_EVERY = 0.5


def register(app: dash.Dash, runs: Runs) -> None:
    """Wire the app's callbacks to the runs."""
    _controls(app, runs)
    for path, room in ROOMS.items():
        for picture in room.PICTURES:
            _picture(app, runs, path, picture)
    _mount(app)
    _balance(app, runs)
    _others(app, runs)
    _runs(app, runs)
    _live(app, runs)
    _clientside(app)


def shown(path: str | None, page: str, view: Stored) -> View | None:
    """Return the view if ``page`` is the shown one and there is anything to draw, else None."""
    if view is None or ((path or "/").rstrip("/") or "/") != page:
        return None
    return parse(view["q"])


# What a picker offers is long and seldom changes; what it shows is short and always sent.
LISTS = ("a_data", "b_data", "more_data", "layer_data", "stage_data", "slider_label")


def only_new(values: dict[str, Any], before: Stored) -> dict[str, Any]:
    """Return the controls' values without the lists that the browser has already.

    Args:
        values: from ``control_values``; the marks of its lists are put into its ``view``.
        before: the view that the browser has.
    """
    marks = {name: _mark(values[name]) for name in LISTS}
    had = (before or {}).get("marks", {})
    values["view"]["marks"] = marks
    return {
        name: no_update if name in marks and had.get(name) == marks[name] else value
        for name, value in values.items()
    }


def _mark(value: Any) -> str:
    text = json.dumps(value, default=lambda one: one.to_plotly_json(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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
        "stage_data": Output("stage", "data"),
        "stage": Output("stage", "value"),
        "slider_max": Output("slider", "max"),
        "slider": Output("slider", "value"),
        "slider_label": Output("slider", "label"),
        "slider_off": Output("slider", "disabled"),
        "step_text": Output("step-text", "children"),
        "span_text": Output("span-text", "children"),
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
        "stage": Input("stage", "value"),
        "slider": Input("slider", "value"),
        "touched": Input("touched", "data"),
        "swap": Input("swap", "n_clicks"),
        "theme": Input("theme", "n_clicks"),
        "token": Input("token", "data"),
    }

    def update(**given: Any) -> dict[str, Any]:
        before = given["before"]
        view = parse(before["q"]) if before else parse(given["url"])
        given["steps"] = before["steps"] if before else []
        given["told"] = before["touched"] if before else 0
        trigger = ctx.triggered_id if before else "url"
        told = max([given["told"], *(one["number"] for one in untold(given["touched"], 0))])
        with runs.lock:
            after = resolved(runs, chosen(trigger, view, given))
            same = before and search(after) == before["q"] and given["token"] == before["token"]
            if same and trigger != "url" and told == given["told"]:
                raise dash.exceptions.PreventUpdate
            return only_new(control_values(runs, after, given["token"], told=told), before)

    state = {"scheme": State("scheme", "data"), "before": State("view", "data")}
    app.callback(output=outputs, inputs=inputs, state=state)(update)


def _picture(app: dash.Dash, runs: Runs, page: str, picture: Picture) -> None:
    name = picture.name
    outputs = {
        "style": Output(f"{name}-panel", "style"),
        "figure": Output(name, "figure"),
        "box": Output(name, "style"),
        "marks": Output(f"{name}-marks", "data"),
        "title": Output(f"{name}-title", "children"),
        "note": Output(f"{name}-note", "children"),
        "words": Output(f"{name}-words", "children"),
    }
    if picture.bar is not None:
        outputs["bar"] = Output(f"{name}-bar", "children")

    def draw(path: str, view: Stored, scheme: Any, marks: Any) -> dict[str, Any]:
        now = shown(path, page, view)
        if now is None or not scheme:
            raise dash.exceptions.PreventUpdate
        return dict.fromkeys(outputs, no_update) | answer(picture, runs, now, scheme, marks)

    app.callback(
        output=outputs,
        inputs={**PAGE, "scheme": Input("scheme", "data")},
        state={"marks": State(f"{name}-marks", "data")},
    )(draw)


def _mount(app: dash.Dash) -> None:
    """Put a page into the document when it is first opened: it costs nothing before."""
    for path, room in ROOMS.items():
        if path != "/":
            _mounted(app, path, room.layout)


def _mounted(app: dash.Dash, page: str, layout: Callable[[], Any]) -> None:
    def mount(path: str | None, there: Any) -> Any:
        if there or (path or "/").rstrip("/") != page:
            raise dash.exceptions.PreventUpdate
        return layout()

    place = f"page-{page[1:]}"
    app.callback(Output(place, "children"), Input("url", "pathname"), State(place, "children"))(
        mount
    )


def _balance(app: dash.Dash, runs: Runs) -> None:
    def head(path: str, view: Stored) -> Any:
        now = shown(path, "/", view)
        return headline.headline(runs, now) if now else no_update

    def rail(path: str, view: Stored, had: Any) -> Any:
        now = shown(path, "/", view)
        if now is None:
            return no_update, no_update
        rows, values = balance.rail_data(runs, now)
        return (no_update if rows == had else rows), values

    def neuron_box(view: Stored, there: Any) -> Any:
        if there or not (view and view["table"]):
            raise dash.exceptions.PreventUpdate
        return neurons.box()

    def neuron_rows(path: str, view: Stored, _: Any) -> Any:
        now = shown(path, "/", view)
        if now is None or not now.table:
            raise dash.exceptions.PreventUpdate
        return neurons.columns(), *neurons.rows(runs, now)

    wire = app.callback
    wire(Output("headline", "children"), inputs=PAGE)(head)
    wire(
        Output("rail-rows", "data"),
        Output("rail-values", "data"),
        inputs=PAGE,
        state={"had": State("rail-rows", "data")},
    )(rail)
    wire(
        Output("neurons-box", "children"),
        Input("view", "data"),
        State("neurons-box", "children"),
    )(neuron_box)
    wire(
        Output("neurons", "columnDefs"),
        Output("neurons", "rowData"),
        Output("neurons-note", "children"),
        inputs={**PAGE, "_": Input("neurons", "id")},
    )(neuron_rows)


def _others(app: dash.Dash, runs: Runs) -> None:
    """Wire what stands above the figures of Spectra, Layers and Runs."""

    def heads(page: str) -> Callable[[str, Stored], Any]:
        def head(path: str, view: Stored) -> Any:
            now = shown(path, page, view)
            return headline.title(runs, now, page) if now else no_update

        return head

    def metric(path: str, view: Stored) -> Any:
        now = shown(path, "/layers", view)
        if now is None:
            return (no_update,) * 3
        options = layers.metric_options(runs.some(now.runs))
        return options, now.metric, metric_help(now.metric)

    for page in ("spectra", "layers", "runs"):
        app.callback(Output(f"{page}-head", "children"), inputs=PAGE)(heads(f"/{page}"))
    app.callback(
        Output("metric", "data"),
        Output("metric", "value"),
        Output("metric-help", "children"),
        inputs=PAGE,
    )(metric)


def _runs(app: dash.Dash, runs: Runs) -> None:
    def config(path: str, view: Stored, everything: bool | None) -> Any:
        now = shown(path, "/runs", view)
        if now is None:
            return (no_update,) * 3
        return runs_page.config_table(runs, now, everything=bool(everything))

    def cost(path: str, view: Stored) -> Any:
        now = shown(path, "/runs", view)
        return runs_page.cost_table(runs, now) if now else (no_update,) * 2

    def against(path: str, view: Stored) -> Any:
        now = shown(path, "/runs", view)
        return now.loss_by if now else no_update

    wire = app.callback
    table = [Output("config-grid", "rowData"), Output("config-grid", "columnDefs")]
    switch = {**PAGE, "everything": Input("config-all", "checked")}
    wire(*table, Output("config-note", "children"), inputs=switch)(config)
    wire(Output("cost-grid", "rowData"), Output("cost-grid", "columnDefs"), inputs=PAGE)(cost)
    wire(Output("loss-by", "value"), inputs=PAGE)(against)


def _live(app: dash.Dash, runs: Runs) -> None:
    seen = Live()

    def live(_: int | None, token: str | None) -> Any:
        fresh = runs.refresh(max_age=LOOK_EVERY)
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

    tabs = [{"tab": path} for path in controls.PAGES]
    places = ["balance", *(path[1:] for path in controls.PAGES if path != "/")]
    sink = Output("sink", "data", allow_duplicate=True)
    run(
        "scheme",
        Output("scheme", "data"),
        Output("mantine", "forceColorScheme"),
        Input("view", "data"),
        State("scheme", "data"),
    )
    run("address", *(Output(tab, "href") for tab in tabs), Input("view", "data"))
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
    run(
        "panel",
        Output("sink", "data"),
        Input({"panel": dash.ALL, "action": dash.ALL}, "n_clicks"),
        initial=False,
    )
    # Controls inside a page that is not always there tell their value by hand: an input that is
    # missing would keep the callback of all controls from running.
    run("metric", sink, Input("metric", "value"), State("view", "data"), initial=False)
    run("by", sink, Input("loss-by", "value"), State("view", "data"), initial=False)
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
