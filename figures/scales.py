"""Colour scales bent to a logarithm: a cell keeps its own number, only its colour is logarithmic.

Plotly's scales are linear in a cell's value. Sending the logarithm instead would need the value
beside it for the hover, a third more bytes of every heatmap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from optgeom.figures.formats import nice
from optgeom.figures.theme import ScaleName, Theme, scale

# Bent scales are straight between stops: at 65 of them the error is far below one colour step.
STOPS = 65


class Scale(NamedTuple):
    """Which values a colour scale spans.

    Attributes:
        low: the value of the first colour; lower ones have it too.
        high: the value of the last colour.
        logarithmic: whether equal ratios are equally far apart.
        below: whether there are values below ``low``.
    """

    low: float
    high: float
    logarithmic: bool
    below: bool = False

    def ticks(self) -> list[float]:
        """Return round values on the scale, for the labels of its bar.

        >>> Scale(195.0, 1.8e6, True).ticks(), Scale(0.02, 0.31, True).ticks()
        ([1000.0, 10000.0, 100000.0, 1000000.0], [0.02, 0.05, 0.1, 0.2])
        >>> Scale(0.0, 4.2, False).ticks()
        [0.0, 1.0, 2.0, 3.0, 4.0]
        """
        if not self.high > self.low:
            return [self.low]
        if self.logarithmic:
            for steps, fewest in (((1,), 3), ((1, 2, 5), 3), (range(1, 10), 0)):
                found = self._powers(steps)
                if len(found) >= fewest:
                    return found[:: max(1, -(-len(found) // 7))]
        step = nice((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{place * step:.12g}") for place in range(first, last + 1)]

    def _powers(self, steps: Iterable[int]) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
        return [
            one for one in every if self.low <= one * (1 + 1e-9) and one <= self.high * (1 + 1e-9)
        ]

    def place(self, value: float) -> float:
        """Return where a value stands on the scale, 0 to 1.

        >>> Scale(1.0, 100.0, True).place(10.0), Scale(0.0, 4.0, False).place(1.0)
        (0.5, 0.25)
        """
        if self.high <= self.low:
            return 0.5
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)


def colours(span: Scale, theme: Theme, name: ScaleName) -> dict[str, Any]:
    """Return a heatmap's colour settings for values on a scale.

    Args:
        span: the values.
        theme: the colours.
        name: ``"diverging"`` or ``"sequential"``.
    """
    stops = scale(theme, name)
    low, high = span.low, span.high
    if not high > low:
        low, high = low - 0.5, high + 0.5
    elif span.logarithmic:
        shares = np.linspace(0, 1, STOPS)
        places = (np.geomspace(low, high, STOPS) - low) / (high - low)
        places[0], places[-1] = 0.0, 1.0
        stops = tuple(zip(places.tolist(), _at(stops, shares), strict=True))
    return {"zmin": low, "zmax": high, "colorscale": [list(stop) for stop in stops]}


def _at(stops: Sequence[tuple[float, str]], shares: Any) -> list[str]:
    """Return the colours at some shares of a scale."""
    known = [share for share, _ in stops]
    parts = np.array([[int(text[i : i + 2], 16) for i in (1, 3, 5)] for _, text in stops])
    mixed = [np.interp(shares, known, parts[:, part]).round().astype(int) for part in range(3)]
    return [f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in zip(*mixed, strict=True)]


def bar(
    span: Scale,
    theme: Theme,
    name: ScaleName,
    *,
    ticks: Sequence[tuple[float, str]],
    title: str = "",
) -> go.Scatter:
    """Return an unseen trace that carries the colour bar, with values evenly spread along it.

    Args:
        span: the values.
        theme: the colours.
        name: ``"diverging"`` or ``"sequential"``.
        ticks: values and how they are written.
        title: what the bar measures.
    """
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [0.5],
            "cmin": 0,
            "cmax": 1,
            "colorscale": [list(stop) for stop in scale(theme, name)],
            "showscale": True,
            "colorbar": {
                "title": {"text": title, "font": {"size": 12, "color": theme.muted}},
                "thickness": 12,
                "outlinewidth": 0,
                "tickvals": [span.place(value) for value, _ in ticks],
                "ticktext": [text for _, text in ticks],
                "tickfont": {"size": 12, "color": theme.muted},
            },
        },
    )
