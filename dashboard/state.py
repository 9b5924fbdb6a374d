"""The one callback that turns what a reader did into a view, and a view into the controls."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import dash
from dash import html

from optgeom.dashboard import controls
from optgeom.dashboard.data import Runs
from optgeom.dashboard.view import STAGES, View, parse, resolve, search, stops
from optgeom.figures.formats import whole
from optgeom.figures.reading import layer_in
from optgeom.traces.errors import OptgeomError

logger = logging.getLogger(__name__)


def chosen(trigger: str | None, view: View, given: dict[str, Any]) -> View:
    """Return the view after one action of the reader.

    Args:
        trigger: the id of what was touched; None or ``url`` reads the address.
        view: the view before.
        given: the controls' values: url, a, b, more, layer, rail, stage, slider, by, scheme, steps.
    """
    if trigger in (None, "url", ""):
        return parse(given["url"])
    if trigger == "run-a":
        other = view.a if given["a"] == view.b else view.b
        return replace(view, a=given["a"], b=other)
    if trigger == "run-b":
        if not given["b"]:
            return replace(view, b=None, alone=True)
        other = view.b if given["b"] == view.a else view.a
        return replace(view, a=other or view.a, b=given["b"], alone=False)
    if trigger == "swap":
        return replace(view, a=view.b, b=view.a) if view.b else view
    if trigger == "more":
        return replace(view, more=tuple(given["more"] or ()))
    if trigger == "layer" and given["layer"]:
        return replace(view, layer=given["layer"])
    if trigger == "rail" and given["rail"]:
        return replace(view, layer=given["rail"])
    if trigger == "stage" and given["stage"] in STAGES:
        return replace(view, stage=given["stage"])
    if trigger == "slider":
        steps = given["steps"] or []
        place = min(max(int(given["slider"] or 0), 0), len(steps) - 1)
        return replace(view, step=steps[place]) if steps else view
    if trigger == "theme":
        return replace(view, theme="light" if given["scheme"] == "dark" else "dark")
    if trigger == "loss-by":
        return replace(view, loss_by=given["by"])
    return view


def control_values(runs: Runs, view: View, token: str | None) -> dict[str, Any]:
    """Return what every control shows for a resolved view."""
    everything = runs.all()
    slots = runs.slots()
    pair = runs.some([run for run in (view.a, view.b) if run])
    drawn = runs.some(view.runs)
    steps = stops(pair, view.layer, view.stage)
    place = _place(steps, view.step)
    others = [trace for trace in everything if trace.name not in (view.a, view.b)]
    options = controls.run_options(everything)
    return {
        "view": {
            "q": search(view),
            "token": token,
            "steps": list(steps),
            "at": place,
            "theme": view.theme,
        },
        "a_data": options,
        "a": view.a,
        "a_mark": controls.run_mark(view.a, slots, side="a" if view.b else "b"),
        "b_data": options,
        "b": view.b,
        "b_mark": controls.run_mark(view.b, slots, side="b"),
        "more_data": controls.more_options(others, slots),
        "more": list(view.more),
        "layer_data": controls.layer_options(drawn),
        "layer": view.layer,
        "rail": view.layer,
        "stage_data": controls.stage_options(drawn),
        "stage": view.stage,
        "slider_max": max(1, len(steps) - 1),
        "slider": place,
        "slider_label": {"function": "stepLabel", "options": {"steps": list(steps)}},
        "slider_off": len(steps) < 2,
        "step_text": f"step {whole(steps[place])}" if steps else "no step yet",
        "by": view.loss_by,
        "more_text": f"+ {len(view.more)}" if view.more else "+ run",
        "more_off": not others,
        "swap_off": view.b is None,
    }


def _place(steps: tuple[int, ...], step: int | None) -> int:
    """Return the index of the stop at or before a step; the last for None."""
    if step is None:
        return max(0, len(steps) - 1)
    return max(0, sum(one <= step for one in steps) - 1)


def resolved(runs: Runs, view: View) -> View:
    """Return the view with everything filled in that these runs can answer."""
    filled = resolve(view, runs.all())
    shown = runs.some(filled.runs)
    if filled.layer and not any(layer_in(trace, filled.layer) for trace in shown):
        return replace(filled, layer=None)
    return filled


def report_problem(error: Exception) -> Any:
    """Show a failed callback's cause and a way to retry, and keep the page alive."""
    if isinstance(error, OptgeomError):
        cause = str(error)
        logger.warning("the page could not draw: %s", cause)
    else:
        cause = f"{type(error).__name__}: {error}"
        logger.error("the page could not draw", exc_info=error)
    body = html.Div(
        [
            html.Span("Could not draw this: "),
            html.Span(cause),
            html.Button("Retry", id="retry", className="text-button", type="button"),
        ],
        className="problem",
        role="alert",
    )
    dash.set_props("problem", {"children": body})
    return dash.no_update
