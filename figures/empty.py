"""The empty figure: missing data is drawn, with the line of code that captures it."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from optgeom.figures.labels import missing_notes
from optgeom.figures.reading import Missing
from optgeom.figures.theme import HEIGHT, Theme, layout


def empty(missing: Sequence[Missing], theme: Theme, *, height: int = HEIGHT) -> go.Figure:
    """Return a figure that says what is missing instead of drawing nothing.

    Args:
        missing: what a trace does not hold.
        theme: the colours.
        height: pixels.
    """
    lines = [(one.what, one.code) for one in missing] or [("Nothing to draw.", "")]
    return go.Figure(
        layout=layout(
            theme,
            height=height,
            xaxis={"visible": False},
            yaxis={"visible": False},
            hovermode=False,
            annotations=missing_notes(lines, theme),
        )
    )
