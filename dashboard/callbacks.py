"""Wiring: callbacks of a line each, over plain functions that tests call without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import dash
from dash import Input, Output, State, ctx, no_update

from optgeom.dashboard import headline, neurons
from optgeom.dashboard.clientside import run_in_browser, seen_by
from optgeom.dashboard.data import Runs
from optgeom.dashboard.finding_wires import register_findings
from optgeom.dashboard.findings import Findings
from optgeom.dashboard.live import Live
from optgeom.dashboard.pages import balance, layers, spectra
from optgeom.dashboard.pages import runs as runs_page
from optgeom.dashboard.parts import metric_help
from optgeom.dashboard.picture import LAYER, Group, Picture, answer, failed
from optgeom.dashboard.sending import Marks, digest, fresh
from optgeom.dashboard.state import (
    control_values,
    report_problem,
    resolved,
    stops_of,
    touched,
    untold,
)
from optgeom.dashboard.view import View, parse, search
from optgeom.traces.errors import OptgeomError

Stored = dict[str, Any] | None
ROOMS = {"/": balance, "/spectra": spectra, "/layers": layers, "/runs": runs_page}
"""The module of each page."""

PICTURES: dict[str, Picture] = {
    picture.name: picture
    for room in ROOMS.values()
    for group in room.GROUPS
    for picture in group.pictures
}
"""Every figure of every page, by name."""


# Seconds: any number of open tabs make the server look at the folder once in so long.
LOOK_EVERY = 0.5


def register(app: dash.Dash, runs: Runs, seen: Live) -> None:
    """Wire the app's callbacks to the runs; ``seen`` remembers when they last changed."""
    _controls(app, runs)
    for path, room in ROOMS.items():
        for group in room.GROUPS:
            _pictures(app, runs, seen_by(path, still=group.still), group)
    _mount(app)
    _balance(app, runs)
    _others(app, runs)
    _runs(app, runs)
    _live(app, runs, seen)
    register_findings(app, runs, Findings())
    run_in_browser(app)


def now_at(sees: Stored) -> View:
    """Return the view that a page shows.

    Raises:
        PreventUpdate: there is none yet.
    """
    if not sees:
        raise dash.exceptions.PreventUpdate
    return parse(sees["q"])


# The controls that a reader can set; what they show comes back with every question.
SETTABLE = ("a", "b", "more", "layer", "stage", "slider")


def only_new(values: dict[str, Any], before: Stored, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls' values without those that the browser has already.

    What a reader can set is compared with what the browser shows; the rest, such as a picker's
    list, with the marks of what it was sent.

    Args:
        values: from ``control_values``; the marks are put into its ``view``.
        before: the view that the browser has.
        given: what the browser's controls show.
    """
    marks = {name: digest(one) for name, one in values.items() if name not in (*SETTABLE, "view")}
    had = (before or {}).get("marks", {})
    same = {name for name, mark in marks.items() if had.get(name) == mark}
    same |= {name for name in SETTABLE if before and given.get(name) == values[name]}
    values["view"]["marks"] = marks
    return {name: no_update if name in same else value for name, value in values.items()}


def _controls(app: dash.Dash, runs: Runs) -> None:
    outputs = {
        "view": Output("view", "data"),
        "steps": Output("steps", "data"),
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
        "play_off": Output("play", "disabled"),
    }
    inputs = {
        "url": Input("url", "search"),
        "touches": Input("touched", "data"),
        "token": Input("token", "data"),
    }
    state = {
        "before": State("view", "data"),
        "given": {name: State(outputs[name].component_id, "value") for name in SETTABLE},
    }

    def update(
        url: str, touches: Any, token: str | None, before: Stored, given: dict[str, Any]
    ) -> dict[str, Any]:
        # A tab leads to the address that was answered last: what was touched since still counts.
        asked = ctx.triggered_id == "url" and before and parse(url) != parse(before["q"])
        if before is None or asked:
            view = parse(url)
        else:
            view = parse(before["q"])
            for one in untold(touches, before["touched"]):
                view = touched(view, one, stops_of(runs, view))
        told = max((one["number"] for one in untold(touches, 0)), default=0)
        with runs.lock:
            after = resolved(runs, view)
            if before and not asked:
                known = (search(after), token, told)
                if known == (before["q"], before["token"], before["touched"]):
                    raise dash.exceptions.PreventUpdate
            return only_new(control_values(runs, after, token, told=told), before, given)

    app.callback(output=outputs, inputs=inputs, state=state)(update)


def _pictures(app: dash.Dash, runs: Runs, place: str, group: Group) -> None:
    """Wire figures that are drawn together: one question and one answer for all of them."""
    outputs: dict[str, Any] = {one.name: picture_outputs(one) for one in group.pictures}
    outputs["marks"] = Output(group.marks, "data")

    def draw(sees: Stored, marks: dict[str, Any] | None) -> dict[str, Any]:
        view = now_at(sees)
        found: dict[str, Any] = {"marks": {}}
        for picture in group.pictures:
            name = picture.name
            had = (marks or {}).get(name)
            new, found["marks"][name] = drawn(picture, runs, view, sees or {}, had)
            found[name] = dict.fromkeys(outputs[name], no_update) | new
        return found

    app.callback(
        output=outputs,
        inputs={"sees": Input(place, "data")},
        state={"marks": State(group.marks, "data")},
        prevent_initial_call=place.startswith(seen_by("/")),
    )(draw)


def picture_outputs(picture: Picture) -> dict[str, Output]:
    """Return where the parts of ``answer`` go."""
    name = picture.name
    places = {
        "style": Output(f"{name}-panel", "style"),
        "figure": Output(name, "figure"),
        "box": Output(name, "style"),
        "title": Output(f"{name}-title", "children"),
        "note": Output(f"{name}-note", "children"),
    }
    return places | ({"bar": Output(f"{name}-bar", "children")} if picture.bar else {})


def drawn(
    picture: Picture, runs: Runs, view: View, sees: dict[str, Any], marks: Marks | None
) -> tuple[dict[str, Any], Marks | None]:
    """Return a picture's answer; one that cannot be read says so in its place."""
    try:
        return answer(picture, runs, view, sees, marks)
    except OptgeomError as error:
        report_problem(error)
        return failed(error, sees["scheme"])


def _mount(app: dash.Dash) -> None:
    """Put a page into the document when it is first opened: it costs nothing before."""
    for path, room in ROOMS.items():
        if path != "/":
            _mounted(app, path, room.layout)


def _mounted(app: dash.Dash, page: str, layout: Callable[[], Any]) -> None:
    place = f"page-{page[1:]}"
    app.callback(
        Output(place, "children"), Input(f"{place}-opened", "data"), prevent_initial_call=True
    )(lambda opened: layout())


def _balance(app: dash.Dash, runs: Runs) -> None:
    outputs = {
        "headline": Output("headline", "children"),
        "rows": Output("rail-rows", "data"),
        "values": Output("rail-values", "data"),
        "marks": Output("head-marks", "data"),
    }

    def head(sees: Stored, had: Any) -> dict[str, Any]:
        now = now_at(sees)
        of = digest([(sees or {})["token"], *(getattr(now, name) for name in (*LAYER, "step"))])
        if had and had["of"] == of:
            raise dash.exceptions.PreventUpdate
        rows, values = balance.rail_data(runs, now)
        parts = {"headline": headline.headline(runs, now), "rows": rows, "values": values}
        new, marks = fresh(parts, had)
        return dict.fromkeys(outputs, no_update) | new | {"marks": marks | {"of": of}}

    def neuron_box(sees: Stored, there: Any) -> Any:
        if there or not sees:
            raise dash.exceptions.PreventUpdate
        return neurons.box()

    def neuron_rows(sees: Stored, _: Any) -> Any:
        return neurons.columns(), *neurons.rows(runs, now_at(sees))

    wire = app.callback
    wire(
        output=outputs,
        inputs={"sees": Input(seen_by("/"), "data")},
        state={"had": State("head-marks", "data")},
        prevent_initial_call=True,
    )(head)
    wire(
        Output("neurons-box", "children"),
        Input("sees-table", "data"),
        State("neurons-box", "children"),
        prevent_initial_call=True,
    )(neuron_box)
    wire(
        Output("neurons", "columnDefs"),
        Output("neurons", "rowData"),
        Output("neurons-note", "children"),
        inputs={"sees": Input("sees-table", "data"), "_": Input("neurons", "id")},
    )(neuron_rows)


def _others(app: dash.Dash, runs: Runs) -> None:
    """Wire what stands above the figures of Spectra, Layers and Runs."""

    def heads(page: str) -> Callable[[Stored], Any]:
        return lambda sees: headline.title(runs, now_at(sees), page)

    def metric(sees: Stored) -> Any:
        now = now_at(sees)
        options = layers.metric_options(runs.some(now.runs))
        return options, now.metric, metric_help(now.metric)

    for page in ("spectra", "layers", "runs"):
        sees = Input(seen_by(page, still=page != "spectra"), "data")
        app.callback(Output(f"{page}-head", "children"), sees)(heads(f"/{page}"))
    app.callback(
        Output("metric", "data"),
        Output("metric", "value"),
        Output("metric-help", "children"),
        Input(seen_by("/layers", still=True), "data"),
    )(metric)


def _runs(app: dash.Dash, runs: Runs) -> None:
    outputs = {
        "rows": Output("config-grid", "rowData"),
        "columns": Output("config-grid", "columnDefs"),
        "note": Output("config-note", "children"),
        "costs": Output("cost-grid", "rowData"),
        "runs": Output("cost-grid", "columnDefs"),
        "by": Output("loss-by", "value"),
        "marks": Output("tables-marks", "data"),
    }

    def tables(sees: Stored, everything: bool | None, had: Any) -> dict[str, Any]:
        now = now_at(sees)
        config = runs_page.config_table(runs, now, everything=bool(everything))
        costs, columns = runs_page.cost_table(runs, now)
        parts = dict(zip(("rows", "columns", "note"), config, strict=True))
        parts |= {"costs": costs, "runs": columns, "by": now.loss_by}
        # A grid that is sent again is built again, which takes longer than all the figures.
        new, marks = fresh(parts, had)
        return dict.fromkeys(outputs, no_update) | new | {"marks": marks}

    app.callback(
        output=outputs,
        inputs={
            "sees": Input(seen_by("/runs", still=True), "data"),
            "everything": Input("config-all", "checked"),
        },
        state={"had": State("tables-marks", "data")},
    )(tables)


def _live(app: dash.Dash, runs: Runs, seen: Live) -> None:
    def live(_: int | None, token: str | None) -> Any:
        fresh = runs.refresh(max_age=LOOK_EVERY)
        if fresh != token:
            # What could not be drawn is tried again: what was said of it is over.
            dash.set_props("problem", {"children": None})
        return (no_update if fresh == token else fresh), seen.text(runs, fresh, time.monotonic())

    def retry(clicks: int | None) -> Any:
        return (None, f"{runs.refresh()}-{clicks}") if clicks else (no_update, no_update)

    wire = app.callback
    wire(
        Output("token", "data"),
        Output("live", "children"),
        Input("tick", "n_intervals"),
        State("token", "data"),
        prevent_initial_call=True,
    )(live)
    wire(
        Output("problem", "children"),
        Output("token", "data", allow_duplicate=True),
        Input("retry", "n_clicks"),
        prevent_initial_call=True,
    )(retry)
