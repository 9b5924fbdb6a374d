"""Spectra: how well conditioned are the updates?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from dash import html

from optgeom.dashboard.data import Runs
from optgeom.dashboard.history import history
from optgeom.dashboard.looks import COLUMNS, Seen, run_at, shown_step, step_of
from optgeom.dashboard.notes import notes_of
from optgeom.dashboard.parts import colour_bar
from optgeom.dashboard.picture import LAYER, Explained, Group, Picture, panel, stores
from optgeom.dashboard.view import View
from optgeom.figures import spectra, spectrum_map
from optgeom.figures.formats import number
from optgeom.figures.steps import shared_ends

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from optgeom.figures.theme import Theme

LARGE, MAP_HEIGHT = 400, 280


def layout() -> html.Div:
    """Return the page without its data."""
    large, maps, histories = (group.pictures for group in GROUPS)
    return html.Div(
        [
            html.Div(id="spectra-head"),
            stores(GROUPS),
            html.Div(
                [
                    html.Div([panel(one) for one in large], className="columns"),
                    html.Div([panel(one) for one in maps], className="columns"),
                    colour_bar("sequential", (), across=True, id="spectra-map-0-bar"),
                    html.Div([panel(one) for one in histories], className="pair"),
                ],
                className="figures",
            ),
        ],
        className="content wide",
    )


def _large(place: int, runs: Runs, view: View) -> Seen | None:
    trace = run_at(runs, view, place)
    if trace is None or view.layer is None:
        return None
    shown = runs.some(view.runs)[:COLUMNS]
    step = shown_step(view, shown)
    # All of them are read, so that every column has the same axes and the same width.
    everything = spectra.info(shown, view.layer, step=step, stage=view.stage, slots=runs.slots())
    mine = [one for one in everything.curves if one.run == trace.name]
    lacking = [one for one in everything.missing if one.run in ("", trace.name)]
    what = everything._replace(curves=tuple(mine), missing=tuple(lacking))
    return Seen(what, step, scale=spectra.right_margin(everything))


def _late(place: int, seen: Seen, view: View) -> str:
    return notes_of(seen.what, view.runs[place : place + 1], stage=view.stage, step=seen.step)


def _map(place: int, runs: Runs, view: View) -> Seen | None:
    trace = run_at(runs, view, place)
    if trace is None or view.layer is None:
        return None
    shown = runs.some(view.runs)[:COLUMNS]
    infos = [spectrum_map.info(one, view.layer, stage=view.stage, span=view.span) for one in shown]
    floor = spectrum_map.shared_floor(infos)
    return Seen(infos[place], step_of(runs, view), shared_ends(infos), floor)


def _draw_map(seen: Seen, view: View, theme: Theme) -> go.Figure:
    return spectrum_map.plot(
        seen.what,
        theme=theme,
        cursor=seen.step,
        floor=seen.scale,
        colorbar=False,
        ends=seen.ends,
    )


def _bar(seen: Seen) -> list[tuple[float, str]]:
    low = round(math.log10(seen.scale))
    powers = range(low, 1, 1 if low >= -4 else 2)
    ends = [(1 - power / low, number(10.0**power)) for power in powers]
    return [(0.0, f"{ends[0][1]} or less"), *ends[1:-1], (1.0, f"σᵢ / σ₁ = {ends[-1][1]}")]


def _pictures(place: int) -> tuple[Picture, Picture]:
    large = Picture(
        name=f"spectrum-{place}",
        title="Singular spectrum",
        explain=Explained(
            text="Singular values over the largest, descending, of the chosen layer at the chosen "
            "step. Solid is the stage looked at, dashed the momentum it was made from. All "
            "columns have the same axes.",
            formula="s_i / s_1 over i / r",
            reference="NorMuon, arXiv 2510.05491, Fig. 1a",
        ),
        look=partial(_large, place),
        needs=(*LAYER, "step"),
        draw=lambda seen, view, theme: spectra.plot(
            seen.what, theme=theme, height=LARGE, right=seen.scale
        ),
        note=partial(_late, place),
        run=place,
        table=spectra.table,
        words=spectra.words,
        height=LARGE,
    )
    over = Picture(
        name=f"spectra-map-{place}",
        title="Spectrum over steps",
        explain=Explained(
            text="Every captured spectrum of the layer, one column each: the largest value on top, "
            "the smallest at the bottom. Above 168 captures or 256 values a cell shows its "
            "smallest. All columns share one scale.",
            formula="log10(s_i / s_1)",
        ),
        look=partial(_map, place),
        needs=(*LAYER, "span"),
        draw=_draw_map,
        run=place,
        table=spectrum_map.table,
        words=spectrum_map.words,
        bar=_bar if place == 0 else None,
        height=MAP_HEIGHT,
    )
    return large, over


_EACH = [_pictures(place) for place in range(COLUMNS)]
GROUPS = (
    Group(tuple(large for large, _ in _EACH)),
    Group(tuple(over for _, over in _EACH), still=True),
    Group(
        (history("spectra-condition", "condition_number"), history("stable-rank", "stable_rank")),
        still=True,
    ),
)
