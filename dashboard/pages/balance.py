"""Balance: does B move the neurons more evenly than A?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dash import dcc, html

from optgeom.dashboard import rail
from optgeom.dashboard.data import Runs
from optgeom.dashboard.history import history
from optgeom.dashboard.looks import Seen, run_at, shared_ends, shown_step, step_of
from optgeom.dashboard.notes import notes_of
from optgeom.dashboard.parts import colour_bar, metric_help
from optgeom.dashboard.picture import LAYER, Explained, Group, Picture, panel, stores
from optgeom.dashboard.view import View
from optgeom.figures import neuron_map, pairs, sorted_norms, spectra
from optgeom.figures.identity import is_computed

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from optgeom.figures.theme import Theme

MAP_HEIGHT = 280


def layout() -> html.Div:
    """Return the page without its data."""
    left, right, map_a, map_b, balance, condition = (
        panel(one) for group in GROUPS for one in group.pictures
    )
    ratios = [text for _, text in reversed(neuron_map.TICKS)]
    table = html.Details(
        [
            html.Summary("Dominant and dormant neurons", id="neurons-open"),
            html.Div(id="neurons-box"),
        ],
        id="neurons-details",
        className="neurons",
    )
    body = html.Div(
        [
            html.Div(id="headline"),
            stores(GROUPS),
            html.Div(
                [
                    html.Div([left, right], className="pair"),
                    html.Div(
                        [
                            map_a,
                            colour_bar("diverging", ratios),
                            map_b,
                        ],
                        className="maps",
                    ),
                    table,
                    html.Div([balance, condition], className="pair"),
                ],
                className="figures",
            ),
        ],
        className="content",
    )
    return html.Div([_rail(), html.Div(id="scrim", className="scrim"), body], className="balance")


def _rail() -> html.Aside:
    return html.Aside(
        [
            html.Div(
                [html.H2("Layers by neuron-norm CV"), metric_help("neuron_norm_cv")],
                className="panel-head",
            ),
            html.Div(id="rail", className="rail-list"),
            dcc.Store(id="rail-rows"),
            dcc.Store(id="rail-values"),
            dcc.Store(id="head-marks"),
        ],
        className="rail",
        id="rail-box",
        **{"aria-label": "Layers"},
    )


def rail_data(runs: Runs, view: View) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rail's rows and its values."""
    if view.a is None:
        return {}, {}
    traces = runs.some([run for run in (view.a, view.b) if run])
    what = pairs.info(traces, step=shown_step(view, traces), stage=view.stage, slots=runs.slots())
    layers = {layer.name: layer for trace in traces for layer in trace.layers}
    computed = [trace.name for trace in traces if is_computed(trace)]
    return rail.rows(what, list(layers.values()), computed), rail.values(what)


def _norms(runs: Runs, view: View) -> Seen | None:
    traces = runs.some(view.runs)
    if not traces or view.layer is None:
        return None
    step = shown_step(view, traces)
    what = sorted_norms.info(traces, view.layer, step=step, stage=view.stage, slots=runs.slots())
    return Seen(what, step)


def _spectrum(runs: Runs, view: View) -> Seen | None:
    traces = runs.some(view.runs)
    if not traces or view.layer is None:
        return None
    step = shown_step(view, traces)
    what = spectra.info(traces, view.layer, step=step, stage=view.stage, slots=runs.slots())
    return Seen(what, step)


def _late(seen: Seen, view: View) -> str:
    return notes_of(seen.what, view.runs, stage=view.stage, step=seen.step)


def _map(place: int, runs: Runs, view: View) -> Seen | None:
    trace = run_at(runs, view, place)
    if trace is None or view.layer is None:
        return None
    what = neuron_map.info(trace, view.layer, stage=view.stage, span=view.span)
    return Seen(what, step_of(runs, view), shared_ends(runs, view, "neurons"))


def _draw_map(seen: Seen, view: View, theme: Theme) -> go.Figure:
    return neuron_map.plot(
        seen.what,
        theme=theme,
        cursor=seen.step,
        neuron=view.neuron,
        colorbar=False,
        ends=seen.ends,
    )


def _neurons(place: int) -> Picture:
    return Picture(
        name=f"map-{'ab'[place]}",
        title="Neurons over steps",
        explain=Explained(
            text="One row per neuron, sorted by its mean norm over all captures, smallest at "
            "the bottom; one column per capture. White (in the dark: black) moves like the mean. "
            "Above 256 neurons or 168 captures a cell shows its entry farthest from 1. Click a "
            "neuron to mark it in every figure, drag to zoom the steps, double-click for all.",
            formula="log2(rho_j / mean(rho))",
            reference="NorMuon, arXiv 2510.05491",
        ),
        look=partial(_map, place),
        needs=(*LAYER, "span", "neuron"),
        draw=_draw_map,
        run=place,
        table=neuron_map.table,
        words=neuron_map.words,
        height=MAP_HEIGHT,
    )


_ALL = (
    Picture(
        name="norms",
        title="Neuron norms, sorted",
        explain=Explained(
            text="Each neuron is a row of the matrix. A flat line at 1 moves every neuron by the "
            "same amount. The dotted curve is what exact orthogonalization would leave (tall "
            "layers, where the raw ns_input was captured).",
            formula="norm / mean = rho_j / mean(rho)",
            reference="NorMuon, arXiv 2510.05491, Fig. 1b",
        ),
        look=_norms,
        needs=(*LAYER, "step", "neuron"),
        draw=lambda seen, view, theme: sorted_norms.plot(
            seen.what, theme=theme, neuron=view.neuron
        ),
        note=_late,
        table=sorted_norms.table,
        words=sorted_norms.words,
    ),
    Picture(
        name="spectrum",
        title="Singular spectrum",
        explain=Explained(
            text="Singular values over the largest, descending. The value at 100 % is 1 / "
            "condition number. Solid is the stage looked at, dashed the momentum it was made "
            "from. Below the hatched band's edge nothing is resolved.",
            formula="s_i / s_1 over i / r",
            reference="NorMuon, arXiv 2510.05491, Fig. 1a",
        ),
        look=_spectrum,
        needs=(*LAYER, "step"),
        draw=lambda seen, view, theme: spectra.plot(seen.what, theme=theme),
        note=_late,
        table=spectra.table,
        words=spectra.words,
    ),
    _neurons(0),
    _neurons(1),
    history("balance", "neuron_norm_cv"),
    history("condition", "condition_number"),
)
GROUPS = (Group(_ALL[:2]), Group(_ALL[2:], still=True))
"""What is above the fold, and what is below: figures that are asked for and drawn together."""
