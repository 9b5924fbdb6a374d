"""The one callback that turns what a reader did into a view, and a view into the controls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, isfinite
from typing import Any, get_args

import dash
from dash import html

from optgeom.dashboard import controls
from optgeom.dashboard.data import Runs
from optgeom.dashboard.view import STAGES, Against, Scheme, View, resolve, search, stops
from optgeom.figures.formats import whole
from optgeom.figures.reading import layer_in
from optgeom.geometry.catalogue import METRICS
from optgeom.traces.errors import OptgeomError

logger = logging.getLogger(__name__)


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
    """Return the view after one action of the reader.

    Args:
        view: the view before.
        what: one key and its value, as the browser sent it: ``a`` and ``b`` (a run; None empties
            run B), ``swap``, ``more`` (runs), ``layer``, ``stage``, ``step``, ``span`` (two
            numbers, None for all steps), ``neuron`` (None for none), ``table`` (open or not),
            ``theme``, ``metric``, ``by``.
        steps: the slider's stops; a step between two of them takes the nearest.
    """
    for key, value in what.items():
        if key in _ACTIONS:
            return _ACTIONS[key](view, value)
        if key == "step" and _is_number(value) and steps:
            stop = min(steps, key=lambda one: abs(one - value))
            # The last one goes on with a run that goes on.
            return replace(view, step=None if stop == steps[-1] else stop)
    return view


def _run_a(view: View, run: Any) -> View:
    if not isinstance(run, str):
        return view
    return replace(view, a=run, b=view.a if run == view.b else view.b)


def _run_b(view: View, run: Any) -> View:
    if not isinstance(run, str) or not run:
        return replace(view, b=None, alone=True)
    if run == view.a and view.b is None:
        return view
    other = view.b if run == view.a else view.a
    return replace(view, a=other or view.a, b=run, alone=False)


def _swap(view: View, _: Any) -> View:
    return replace(view, a=view.b, b=view.a) if view.b else view


def _more(view: View, runs: Any) -> View:
    known = runs if isinstance(runs, list) else []
    return replace(view, more=tuple(run for run in known if isinstance(run, str)))


def _at_layer(view: View, layer: Any) -> View:
    # Neuron 12 of another layer is another neuron.
    if not isinstance(layer, str) or layer == view.layer:
        return view
    return replace(view, layer=layer, neuron=None)


def _neuron(view: View, neuron: Any) -> View:
    known = _is_number(neuron) and neuron >= 0 and neuron != view.neuron
    return replace(view, neuron=int(neuron) if known else None)


def _one_of(field: str, values: Container[Any]) -> Callable[[View, Any], View]:
    def choose(view: View, value: Any) -> View:
        known = isinstance(value, str) and value in values
        return replace(view, **{field: value}) if known else view

    return choose


_ACTIONS: Mapping[str, Callable[[View, Any], View]] = {
    "a": _run_a,
    "b": _run_b,
    "swap": _swap,
    "more": _more,
    "layer": _at_layer,
    "stage": _one_of("stage", STAGES),
    "span": lambda view, span: replace(view, span=_span(span)),
    "neuron": _neuron,
    "table": lambda view, is_open: replace(view, table=bool(is_open)),
    "theme": _one_of("theme", get_args(Scheme)),
    "metric": _one_of("metric", METRICS),
    "by": _one_of("loss_by", get_args(Against)),
}


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
    drawn = runs.some(view.runs)
    pair = runs.some([run for run in (view.a, view.b) if run])
    steps = stops(pair, view.layer, view.stage)
    place = _place(steps, view.step)
    others = [trace for trace in everything if trace.name not in (view.a, view.b)]
    options = controls.run_options(everything)
    return {
        "view": {
            "q": search(view),
            "token": token,
            "at": place,
            "theme": view.theme,
            "touched": told,
            "a": view.a,
            "b": view.b,
            "more": list(view.more),
            "stage": view.stage,
            "layer": view.layer,
            "neuron": view.neuron,
            "table": view.table,
            "metric": view.metric,
            "by": view.loss_by,
        },
        # Apart from the view, which comes back with every question.
        "steps": list(steps),
        "a_data": options,
        "a": view.a,
        "a_mark": controls.run_mark(view.a, slots, side="a" if view.b else "b"),
        "b_data": options,
        "b": view.b,
        "b_mark": controls.run_mark(view.b, slots, side="b"),
        "more_data": controls.more_options(others, slots),
        "more": list(view.more),
        "layer_data": controls.layer_options(pair),
        "layer": view.layer,
        "stage_data": controls.stage_options(drawn),
        "stage": view.stage,
        "slider_max": max(1, len(steps) - 1),
        "slider": place,
        "slider_label": {"function": "stepLabel", "options": {"steps": list(steps)}},
        "slider_off": len(steps) < 2,
        "step_text": f"step {whole(steps[place])}" if steps else "no step yet",
        "more_text": f"+ {len(view.more)}" if view.more else "+ run",
        "more_off": not others or view.b is None,
        "play_off": len(steps) < 2,
        "span_text": _span_text(view),
        "swap_off": view.b is None,
    }


def stops_of(runs: Runs, view: View) -> tuple[int, ...]:
    """Return where the slider of a view stops."""
    pair = runs.some([run for run in (view.a, view.b) if run])
    return stops(pair, view.layer, view.stage)


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
