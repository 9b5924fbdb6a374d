"""Balance: does B move the neurons more evenly than A?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import html

from optgeom.dashboard import rail
from optgeom.dashboard.cards import Card, cards
from optgeom.dashboard.data import Runs, cell
from optgeom.dashboard.notes import notes_of
from optgeom.dashboard.parts import empty, mark, metric_help, panel, side_of, text_help
from optgeom.dashboard.sentence import sentence, sentence_side
from optgeom.dashboard.view import View, nearest_stop, stops
from optgeom.figures import pairs, sorted_norms, spectra
from optgeom.figures.names import layer_phrase, layer_title, run_label, run_short
from optgeom.figures.reading import find_layer
from optgeom.figures.theme import ThemeName, theme_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

CODE = "with optgeom.watch(model, optimizer, out={out!r}) as rec:\n    train(model, optimizer)"


def layout() -> html.Div:
    """Return the page without its data."""
    norms = panel(
        "norms",
        "Neuron norms, sorted",
        text_help(
            "Each neuron is a row of the matrix. A flat line at 1 moves every neuron by the same "
            "amount. The dotted curve is what exact orthogonalization would leave (tall layers, "
            "where the raw ns_input was captured).",
            formula="norm / mean = rho_j / mean(rho)",
            reference="NorMuon, arXiv 2510.05491, Fig. 1b",
            label="What the sorted neuron norms show",
        ),
    )
    spectrum = panel(
        "spectrum",
        "Singular spectrum",
        text_help(
            "Singular values over the largest, descending. The value at 100 % is 1 / condition "
            "number. Solid is the stage looked at, dashed the momentum it was made from. Below "
            "the hatched band's edge nothing is resolved.",
            formula="s_i / s_1 over i / r",
            reference="NorMuon, arXiv 2510.05491, Fig. 1a",
            label="What the spectra show",
        ),
    )
    body = html.Div(
        [
            html.Div(id="headline"),
            html.Div([norms, spectrum], className="pair"),
        ],
        className="content",
    )
    return html.Div([_rail(), html.Div(id="scrim", className="scrim"), body], className="balance")


def _rail() -> html.Aside:
    return html.Aside(
        [
            html.Div(
                [
                    html.H2("Layers by neuron-norm CV"),
                    metric_help("neuron_norm_cv"),
                ],
                className="panel-head",
            ),
            html.Div(id="rail-runs", className="rail-runs"),
            html.Div(
                [html.Span(className="rail-name"), html.Span(id="rail-scale", className="track")],
                className="rail-scale",
            ),
            dmc.RadioGroup([], id="rail", value=None, className="rail-list"),
        ],
        className="rail",
        id="rail-box",
    )


def shown_step(view: View, traces: Sequence[Trace]) -> int | None:
    """Return the slider's stop for a view."""
    return nearest_stop(stops(traces[:2], view.layer, view.stage), view.step)


def headline(runs: Runs, view: View) -> list[Any]:
    """Return the sentence and the four cards, or what is missing."""
    if view.a is None or view.layer is None:
        return [nothing_yet(runs, view)]
    traces = runs.some(view.runs)
    layer = find_layer(traces, view.layer)
    step = shown_step(view, traces)
    slots = runs.slots()
    found = cards(traces, layer.name, stage=view.stage, step=step)
    order = [traces[1], traces[0], *traces[2:]] if len(traces) > 1 else traces
    return [
        html.H1(_sentence(view, traces, layer, step), className="sentence"),
        html.Div([_card(card, order, slots) for card in found], className="cards"),
        html.P([html.Span(layer_title(layer)), html.Span(layer.name)], className="layer-line"),
    ]


def _sentence(view: View, traces: Sequence[Trace], layer: LayerInfo, step: int | None) -> str:
    sides = []
    for trace in traces[: 2 if view.b else 1]:
        one = cell(trace, layer.name, "neuron_norm_cv", stage=view.stage, step=step)
        sides.append(sentence_side(run_short(trace.name, limit=36), one, step))
    return sentence(
        sides[0],
        sides[1] if view.b else None,
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
        said = [f"{other.run} {other.value}", other.note, card.versus if place == 0 else ""]
        text = " \N{MIDDLE DOT} ".join(one for one in said if one)
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
    """Return the page's empty state: no run, or a run without layers."""
    out = f"{runs.path}/a" if view.a is None else runs.path
    if view.a is None:
        title, text = "No runs yet", f"Nothing has been captured under {runs.path} so far."
    else:
        title, text = "No layer was captured", f"{run_label(view.a)} holds no matrix."
    return empty(
        title, f"{text} This page follows the folder; attach one line:", CODE.format(out=out)
    )


def norms_figure(runs: Runs, view: View, scheme: ThemeName) -> tuple[go.Figure, str]:
    """Return the left panel and its note."""
    if view.a is None or view.layer is None:
        return _blank(scheme), ""
    traces = runs.some(view.runs)
    step = shown_step(view, traces)
    what = sorted_norms.info(traces, view.layer, step=step, stage=view.stage, slots=runs.slots())
    said = notes_of(what, view.runs, stage=view.stage, step=step)
    return sorted_norms.plot(what, theme=theme_of(scheme)), said


def spectrum_figure(runs: Runs, view: View, scheme: ThemeName) -> tuple[go.Figure, str]:
    """Return the right panel and its note."""
    if view.a is None or view.layer is None:
        return _blank(scheme), ""
    traces = runs.some(view.runs)
    step = shown_step(view, traces)
    what = spectra.info(traces, view.layer, step=step, stage=view.stage, slots=runs.slots())
    said = notes_of(what, view.runs, stage=view.stage, step=step)
    return spectra.plot(what, theme=theme_of(scheme)), said


def _blank(scheme: ThemeName) -> go.Figure:
    theme = theme_of(scheme)
    hidden = {"visible": False}
    return go.Figure(
        layout={"xaxis": hidden, "yaxis": hidden, "paper_bgcolor": theme.ground}
        | {"plot_bgcolor": theme.ground, "template": "none"}
    )


def rail_rows(runs: Runs, view: View) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the rail's rows, its scale and the runs it compares."""
    if view.a is None:
        return [], [], []
    traces = runs.some(view.runs)[:2] if view.b else runs.some([view.a])
    slots = runs.slots()
    step = shown_step(view, traces)
    what = pairs.info(traces, step=step, stage=view.stage, slots=slots)
    layers = {layer.name: layer for trace in traces for layer in trace.layers}
    named: list[Any] = []
    for place, trace in enumerate(traces):
        dot = mark(slots[trace.name], side_of(place, len(traces)))
        named.append(html.Span([dot, run_short(trace.name, limit=28)], title=trace.name))
    return (
        rail.rows(what, list(layers.values()), selected=view.layer),
        list(rail.scale(what)),
        named,
    )
