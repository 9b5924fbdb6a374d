"""The left rail: a dumbbell per layer, and the layer picker at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import html

from optgeom.dashboard.parts import mark, side_of
from optgeom.figures.formats import number, short
from optgeom.figures.names import run_label, shorten
from optgeom.figures.pairs import LayerPairsInfo, PairGroup, PairRow
from optgeom.traces.info import LayerInfo

FOLD_ABOVE = 40
NARROW, WIDE = 10, 32


def rows(
    what: LayerPairsInfo, layers: Sequence[LayerInfo], *, selected: str | None
) -> list[html.Details]:
    """Return the rail's groups of rows, folded from 40 layers on.

    Args:
        what: the values that the figure ``layer_pairs`` draws too.
        layers: every layer of the shown runs.
        selected: the chosen layer, whose group is open.
    """
    known = {layer.name: layer for layer in layers}
    count = sum(len(group.rows) for group in what.groups)
    return [
        html.Details(
            [
                _summary(group, what),
                html.Div([_row(row, what, known[row.layer]) for row in group.rows]),
            ],
            open=count <= FOLD_ABOVE or any(row.layer == selected for row in group.rows),
            className="rail-group",
        )
        for group in what.groups
        if group.rows
    ]


def _summary(group: PairGroup, what: LayerPairsInfo) -> html.Summary:
    medians: list[Any] = []
    for place, (value, slot) in enumerate(zip(group.medians[:2], what.slots, strict=False)):
        medians += [mark(slot, side_of(place, len(what.runs))), short(value)]
    label = f"median of {len(group.rows)} layers"
    return html.Summary(
        [
            html.Span(shorten(group.kind, 18), className="rail-kind"),
            html.Span(medians, className="rail-medians", title=label),
        ]
    )


def _row(row: PairRow, what: LayerPairsInfo, layer: LayerInfo) -> dmc.RadioCard:
    """Return one layer: where its dots stand on the shared scale."""
    share = [None if v is None else 100 * v / what.maximum for v in row.values]
    dots: list[Any] = []
    pair = [one for one in share[:2] if one is not None]
    if len(pair) == 2:
        low, high = min(pair), max(pair)
        dots.append(
            html.Span(
                className="link", style={"left": f"{low:.2f}%", "width": f"{high - low:.2f}%"}
            )
        )
    for place, (at, slot) in enumerate(zip(share, what.slots, strict=True)):
        if at is not None:
            dot = mark(slot, side_of(place, len(what.runs)))
            dots.append(html.Span(dot, className="stop", style={"left": f"{at:.2f}%"}))
    values = ", ".join(
        f"{run_label(run)} {number(value)}"
        for run, value in zip(what.runs, row.values, strict=True)
    )
    return dmc.RadioCard(
        [
            html.Span(_name(layer), className="rail-name"),
            html.Span(dots, className="track"),
        ],
        value=row.layer,
        className="rail-row" if layer.block is not None else "rail-row tall",
        withBorder=False,
        wrapperProps={"title": f"{row.layer}\n{row.title}\n{values}"},
        **{"aria-label": f"{row.title}: {values}"},
    )


def _name(layer: LayerInfo) -> str:
    """Return a row's name under its group's heading: its block, or its own name on a line."""
    if layer.block is None:
        return shorten(layer.name, WIDE)
    piece = f" [{layer.piece}]" if layer.piece else ""
    return shorten(f"block {layer.block}{piece}", NARROW)


def scale(what: LayerPairsInfo) -> list[html.Span]:
    """Return the rail's axis: 0, half and the largest value over all captured steps."""
    top = what.maximum
    return [
        html.Span(number(value), style={"left": f"{left}%"})
        for value, left in ((0.0, 0), (top / 2, 50), (top, 100))
    ]
