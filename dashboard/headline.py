"""What stands above the figures of Balance: the sentence, the four cards, or what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import html

from optgeom.dashboard.cards import Card, cards
from optgeom.dashboard.data import Runs, cell
from optgeom.dashboard.looks import shown_step
from optgeom.dashboard.parts import empty, mark, metric_help
from optgeom.dashboard.sentence import sentence, sentence_side
from optgeom.dashboard.view import View
from optgeom.figures.formats import bound, short, whole
from optgeom.figures.names import layer_phrase, layer_title, run_label, run_short
from optgeom.figures.reading import find_layer
from optgeom.geometry.catalogue import METRICS
from optgeom.traces.files.address import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

CODE = "with optgeom.watch(model, optimizer, out={out!r}) as rec:\n    train(model, optimizer)"


def headline(runs: Runs, view: View) -> list[Any]:
    """Return the sentence and the four cards, or what is missing."""
    traces = runs.some(view.runs)
    if not traces or view.layer is None:
        return [nothing_yet(runs, view)]
    layer = find_layer(traces, view.layer)
    step = shown_step(view, traces)
    slots = runs.slots()
    found = cards(traces, layer.name, stage=view.stage, step=step)
    order = [traces[1], traces[0], *traces[2:]] if len(traces) > 1 else traces
    return [
        html.H1(said(view, traces, layer, step), className="sentence"),
        html.Div([_card(card, order, slots) for card in found], className="cards"),
        html.P([html.Span(layer_title(layer)), html.Span(layer.name)], className="layer-line"),
    ]


def said(view: View, traces: Sequence[Trace], layer: LayerInfo, step: int | None) -> str:
    """Return the sentence about one layer at a step."""
    sides = []
    for trace in traces[: 2 if view.b else 1]:
        one = cell(trace, layer.name, "neuron_norm_cv", stage=view.stage, step=step)
        sides.append(sentence_side(run_short(trace.name, limit=36), one, step))
    return sentence(
        sides[0],
        sides[1] if len(sides) > 1 else None,
        layer=layer_phrase(layer),
        step=step,
        stage=view.stage,
    ).text


def _card(card: Card, order: Sequence[Trace], slots: dict[str, int]) -> html.Div:
    count = len(order)
    sides = ["b", "a"] if count > 1 else ["b"]
    marks = [mark(slots[t.name], sides[i] if i < 2 else "more") for i, t in enumerate(order)]  # type: ignore[arg-type]
    below: list[Any] = []
    if card.note:
        below.append(html.Div(card.note, className="card-other"))
    for place, other in enumerate(card.others):
        told = [f"{other.run} {other.value}", other.note, card.versus if place == 0 else ""]
        text = " \N{MIDDLE DOT} ".join(one for one in told if one)
        below.append(html.Div([marks[place + 1], text], className="card-other"))
    if not card.others and card.versus:
        below.append(html.Div(card.versus, className="card-other"))
    head = [html.Span(card.title)]
    if card.metric != "loss":
        head.append(metric_help(card.metric))
    return html.Div(
        [
            html.Div(head, className="card-title"),
            html.Div(
                [marks[0], html.Span(card.main, className="card-number"), html.Span(card.main_run)],
                className="card-main",
            ),
            *below,
        ],
        className="card",
    )


def nothing_yet(runs: Runs, view: View) -> html.Div:
    """Return a page's empty state: no run, or a run without layers."""
    gone = not runs.some(view.runs)
    where = masked(runs.path)
    out = f"{where}/a" if gone else where
    if gone:
        title, text = "No runs yet", f"Nothing has been captured under {where} so far."
    else:
        title, text = "No layer was captured", f"{run_label(view.a or '')} holds no matrix."
    return empty(
        title, f"{text} This page follows the folder; attach one line:", CODE.format(out=out)
    )


def title(runs: Runs, view: View, page: str) -> list[Any]:
    """Return what stands above the figures of the other pages: what is shown, or what is missing.

    Args:
        runs: the runs.
        view: the view.
        page: the page's path.
    """
    if not runs.some(view.runs) or (view.layer is None and page != "/runs"):
        return [nothing_yet(runs, view)]
    if page == "/runs":
        return []
    traces = runs.some(view.runs)
    step = shown_step(view, traces)
    at = "" if step is None else f" at step {whole(step)}"
    if page == "/layers":
        return [html.H1(f"{METRICS[view.metric].title} of every layer", className="sentence")]
    layer = find_layer(traces, view.layer or "")
    return [
        html.H1(conditioning(view, traces, layer, step), className="sentence"),
        html.P(
            [html.Span(f"{layer_title(layer)}{at}"), html.Span(layer.name)], className="layer-line"
        ),
    ]


def conditioning(view: View, traces: Sequence[Trace], layer: LayerInfo, step: int | None) -> str:
    """Return the sentence of Spectra: the condition number of each shown run."""
    told = []
    for trace in traces:
        one = cell(trace, layer.name, "condition_number", stage=view.stage, step=step)
        if one.value is not None and one.status == "ok":
            at = one.note(step)
            said = bound(one.value, is_bound=one.is_bound) if one.is_bound else short(one.value)
            told.append(f"{run_short(trace.name, limit=36)} {said}{f' ({at})' if at else ''}")
        else:
            told.append(f"{run_short(trace.name, limit=36)} {one.note(step) or 'none'}")
    stage = view.stage.replace("_", " ")
    phrase = layer_phrase(layer)
    return f"Condition number of the {stage} of {phrase}: {', '.join(told)}."
