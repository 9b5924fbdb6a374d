"""How the chosen neuron is marked: a dot on sorted norms, a line at its row of the heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from optgeom.figures.formats import whole
from optgeom.figures.labels import note
from optgeom.figures.theme import Theme


class Spot(NamedTuple):
    """Where the neuron stands on a run's curve: the run's colour slot, and axis coordinates."""

    slot: int
    x: float
    y: float


def dot(spot: Spot, theme: Theme) -> go.Scatter:
    """Return a dot in the run's colour, the ground's around it so that curves do not hide it."""
    return go.Scatter(
        x=[spot.x],
        y=[spot.y],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": theme.run(spot.slot),
            "size": 11,
            "line": {"color": theme.ground, "width": 2},
        },
    )


def dot_label(
    neuron: int, spots: Sequence[Spot], ends: tuple[float, float], theme: Theme
) -> dict[str, Any]:
    """Return the neuron's number, once, above its highest dot and within the picture.

    Args:
        neuron: the row of the matrix.
        spots: where it stands, at least one.
        ends: where the y axis begins and ends.
        theme: the colours.
    """
    highest = max(spots, key=lambda spot: spot.y)
    above = highest.y < ends[1] - 0.15 * (ends[1] - ends[0])
    side = "left" if highest.x < 8 else "right" if highest.x > 92 else "center"
    return _label(
        neuron,
        theme,
        x=highest.x,
        y=highest.y,
        xanchor=side,
        yanchor="bottom" if above else "top",
        yshift=8 if above else -8,
    )


def row_line(place: float, theme: Theme) -> dict[str, Any]:
    """Return a thin line across a heatmap at the neuron's place, in % of its rows."""
    return {
        "type": "line",
        "name": "neuron",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": place,
        "y1": place,
        "line": {"color": theme.text, "width": 1},
    }


def row_label(neuron: int, place: float, theme: Theme) -> dict[str, Any]:
    """Return the neuron's number on its line: above it, or below where the picture ends."""
    above = place < 88
    return _label(
        neuron,
        theme,
        x=0,
        xref="paper",
        xanchor="left",
        xshift=4,
        y=place,
        yanchor="bottom" if above else "top",
        yshift=2 if above else -2,
    )


def _label(neuron: int, theme: Theme, **place: Any) -> dict[str, Any]:
    font = {"color": theme.text, "size": 12}
    return note(
        f"neuron {whole(neuron)}", theme, bgcolor=theme.ground, borderpad=1, font=font, **place
    )
