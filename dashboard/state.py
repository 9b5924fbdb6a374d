"""The one callback that turns what a reader did into a view, and a view into the controls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, isfinite
from typing import Any, get_args

import dash
from dash import html

from optgeom.dashboard import controls
from optgeom.dashboard.data import Runs
from optgeom.dashboard.view import STAGES, Against, View, parse, resolve, search, stops
from optgeom.figures.formats import whole
from optgeom.figures.reading import layer_in
from optgeom.geometry.catalogue import METRICS
from optgeom.traces.errors import OptgeomError

logger = logging.getLogger(__name__)


def chosen(trigger: str | None, view: View, given: dict[str, Any]) -> View:
    """Return the view after one action of the reader.

    Args:
        trigger: the id of what was touched; None or ``url`` reads the address.
        view: the view before.
        given: the controls' values: url, a, b, more, layer, stage, slider, touched, scheme, steps,
            and ``told``, the number of the last touch that the view answers to.
    """
    if trigger in (None, "url", ""):
        return parse(given["url"])
    if trigger == "touched":
        for one in untold(given["touched"], given["told"]):
            view = touched(view, one, given["steps"])
        return view
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
        return _at_layer(view, given["layer"])
    if trigger == "stage":
        return replace(view, stage=given["stage"] if given["stage"] in STAGES else "update")
    if trigger == "slider" and given["steps"]:
        return _at_stop(view, given["slider"] or 0, given["steps"])
    if trigger == "theme":
        return replace(view, theme="light" if given["scheme"] == "dark" else "dark")
    return view


def untold(touches: Any, told: int) -> list[Mapping[str, Any]]:
    """Return the touches that came after one: the browser repeats those without an answer.

    Args:
        touches: as the browser sent them, each with its ``number``.
        told: the number of the last one that was answered.
    """
    if not isinstance(touches, list):
        return []
    known = [one for one in touches if isinstance(one, dict) and _is_number(one.get("number"))]
    return [one for one in known if one["number"] > told]


def touched(view: View, what: Mapping[str, Any], steps: Sequence[int]) -> View:
    """Return the view after something inside a figure, the rail or a table was touched.

    Args:
        view: the view before.
        what: one key and its value, as the browser sent it: ``layer`` (a name), ``step``, ``span``
            (two numbers, None for all), ``neuron`` (None for none), ``table`` (open or not),
            ``metric``, ``by``.
        steps: the slider's stops; a step that was touched between two takes the nearest.
    """
    if isinstance(what.get("layer"), str):
        return _at_layer(view, what["layer"])
    if _is_number(what.get("step")) and steps:
        at = what["step"]
        return _at_stop(view, min(range(len(steps)), key=lambda i: abs(steps[i] - at)), steps)
    if "span" in what:
        return replace(view, span=_span(what["span"]))
    if "neuron" in what:
        neuron = what["neuron"]
        known = _is_number(neuron) and neuron >= 0 and neuron != view.neuron
        return replace(view, neuron=int(neuron) if known else None)
    if "table" in what:
        return replace(view, table=bool(what["table"]))
    if what.get("metric") in METRICS:
        return replace(view, metric=what["metric"])
    if what.get("by") in get_args(Against):
        return replace(view, loss_by=what["by"])
    return view


def _at_layer(view: View, layer: str) -> View:
    # Neuron 12 of another layer is another neuron.
    return view if layer == view.layer else replace(view, layer=layer, neuron=None)


def _at_stop(view: View, place: int, steps: Sequence[int]) -> View:
    """Return the view at a stop; the last one follows a running job."""
    place = max(0, min(place, len(steps) - 1))
    return replace(view, step=steps[place])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _span(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_number, value)):
        return None
    low, high = max(0.0, min(value)), max(value)
    first, last = ceil(low), floor(high)
    # Between two steps: the two beside it, since an axis needs some length.
    return (first, last) if first < last else (floor(low), max(floor(low) + 1, ceil(high)))


def control_values(runs: Runs, view: View, token: str | None, *, told: int = 0) -> dict[str, Any]:
    """Return what every control shows for a resolved view.

    Args:
        runs: the runs.
        view: the view.
        token: of the runs as they are now.
        told: the number of the last touch that the view answers to.
    """
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
            "touched": told,
            "layer": view.layer,
            "neuron": view.neuron,
            "table": view.table,
            "metric": view.metric,
            "by": view.loss_by,
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
        "stage_data": controls.stage_options(drawn),
        "stage": view.stage,
        "slider_max": max(1, len(steps) - 1),
        "slider": place,
        "slider_label": {"function": "stepLabel", "options": {"steps": list(steps)}},
        "slider_off": len(steps) < 2,
        "step_text": f"step {whole(steps[place])}" if steps else "no step yet",
        "more_text": f"+ {len(view.more)}" if view.more else "+ run",
        "more_off": not others,
        "span_text": _span_text(view),
        "swap_off": view.b is None,
    }


def _span_text(view: View) -> str:
    if view.span is None:
        return ""
    return f"steps {whole(view.span[0])} to {whole(view.span[1])} \N{MULTIPLICATION SIGN}"


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
