"""Direct labels at line ends, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from optgeom.figures.names import escape
from optgeom.figures.theme import FONT, MONO, Theme

LINE = 15
CHARACTER = 7.8


class EndLabel(NamedTuple):
    """A label that stands where a line ends.

    Attributes:
        text: what it says.
        color: the line's colour.
        at: where the line ends, as a share of the axis from 0 (bottom) to 1 (top).
    """

    text: str
    color: str
    at: float


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart to at least ``gap``, as little as possible, order kept, within 0 to 1.

    Least squares under order constraints: neighbours that collide are pooled around their mean.
    If they do not fit, they are spaced evenly.

    >>> [round(x, 2) for x in spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    if not positions:
        return []
    if gap * (len(positions) - 1) > 1:
        gap = 1 / (len(positions) - 1)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    # Subtracting i * gap turns "at least a gap apart" into "not decreasing".
    pools: list[tuple[float, int]] = []
    for place, index in enumerate(order):
        mean, size = positions[index] - place * gap, 1
        while pools and pools[-1][0] >= mean:
            before, count = pools.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        pools.append((mean, size))
    top = 1 - gap * (len(positions) - 1)
    flat = [min(max(mean, 0.0), top) for mean, size in pools for _ in range(size)]
    moved = [0.0] * len(positions)
    for place, index in enumerate(order):
        moved[index] = flat[place] + place * gap
    return moved


def end_labels(labels: Sequence[EndLabel], *, plot_height: float) -> list[dict[str, Any]]:
    """Return plotly annotations in the right margin, one per label.

    Args:
        labels: what to write, where the lines end.
        plot_height: pixels between the top and the bottom of the plot.
    """
    places = spread([min(max(label.at, 0.0), 1.0) for label in labels], LINE / plot_height)
    return [
        {
            "text": escape(label.text),
            "x": 1,
            "y": place,
            "xref": "paper",
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 6,
            "showarrow": False,
            "align": "left",
            "font": {"color": label.color, "size": 12, "family": FONT},
        }
        for label, place in zip(labels, places, strict=True)
    ]


def margin_for(texts: Sequence[str]) -> int:
    """Return the right margin in pixels that holds the longest of these labels."""
    return max(16, round(20 + CHARACTER * max((len(text) for text in texts), default=0)))


def note(text: str, theme: Theme, **place: Any) -> dict[str, Any]:
    """Return an annotation in muted text, without an arrow, at ``place``."""
    base: dict[str, Any] = {
        "text": text,
        "showarrow": False,
        "font": {"color": theme.muted, "size": 12, "family": FONT},
    }
    return {**base, **place}


def missing_notes(lines: Sequence[tuple[str, str]], theme: Theme) -> list[dict[str, Any]]:
    """Return annotations that say, in an empty figure, what is missing and what captures it.

    Args:
        lines: pairs of a sentence and a line of code (or an empty string).
        theme: the colours.
    """
    notes = []
    for place, (what, code) in enumerate(lines):
        text = f"{wrapped(what)}"
        if code:
            text += f'<br><span style="font-family:{MONO.replace(chr(34), chr(39))}">'
            text += f"{wrapped(code)}</span>"
        height = 1 - (place + 0.5) / len(lines)
        notes.append(note(text, theme, x=0.5, y=height, xref="paper", yref="paper"))
    return notes


def wrapped(text: str, width: int = 58) -> str:
    """Escape a text and break it into lines at spaces, for plotly."""
    lines: list[str] = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(escape(line) for line in lines)
