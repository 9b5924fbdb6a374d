"""Colours, type and grid of every figure, in light and in dark.

Colour is identity: a slot of ``Theme.runs`` belongs to one run and means nothing else. A stage is
a dash, a magnitude is one of the two scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from optgeom.traces.errors import OptgeomError

ThemeName = Literal["light", "dark"]

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'
MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
HEIGHT = 320

# Nothing is ever sent to a server: plotly 7 shows an upload button unless told not to.
CONFIG: dict[str, Any] = {
    "displayModeBar": False,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "doubleClick": "reset",
}


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours.

    Attributes:
        name: ``"light"`` or ``"dark"``.
        ground: the panel's background, also the middle of the diverging scale.
        text: body text.
        muted: axis titles, ticks, reference lines' labels.
        grid: horizontal grid, the text colour at 12 %.
        reference: dashed and hatched reference marks.
        runs: six run colours, at least 3:1 on the ground and apart in three colour-blindness
            models.
        other: runs beyond the sixth.
        diverging: colour scale for log2(norm / mean), its middle the ground.
    """

    name: ThemeName
    ground: str
    text: str
    muted: str
    grid: str
    reference: str
    runs: tuple[str, ...]
    other: str
    diverging: tuple[tuple[float, str], ...]

    def run(self, slot: int) -> str:
        """Return the colour of an identity slot; slots past the sixth share one grey."""
        return self.runs[slot] if 0 <= slot < len(self.runs) else self.other


LIGHT = Theme(
    name="light",
    ground="#FFFFFF",
    text="#1B1F24",
    muted="#59616B",
    grid="rgba(27,31,36,0.12)",
    reference="#7A828C",
    runs=("#1F5FBF", "#C25E00", "#6B7280", "#00805E", "#A0308A", "#2B9CC4"),
    other="#9AA0A8",
    diverging=(
        (0.0, "#5B2A86"),
        (0.25, "#A583C3"),
        (0.5, "#FFFFFF"),
        (0.75, "#7DBF86"),
        (1.0, "#14692F"),
    ),
)
DARK = Theme(
    name="dark",
    ground="#16181D",
    text="#E6E8EB",
    muted="#A3AAB5",
    grid="rgba(230,232,235,0.12)",
    reference="#8A919C",
    runs=("#6AA5FF", "#F29A4A", "#A3AAB5", "#35C297", "#E07CC8", "#7AD0EE"),
    other="#6F7680",
    diverging=(
        (0.0, "#C79BF2"),
        (0.25, "#6F4D91"),
        (0.5, "#16181D"),
        (0.75, "#2F7A43"),
        (1.0, "#7FE095"),
    ),
)

ScaleName = Literal["diverging", "sequential"]

# Cividis: the same in both themes, and an even scale in grey. Equally spaced.
_CIVIDIS = (
    "#00224E",
    "#123570",
    "#3B496C",
    "#575D6D",
    "#707173",
    "#8A8678",
    "#A59C74",
    "#C3B369",
    "#E1CC55",
    "#FEE838",
)
SEQUENTIAL = tuple((place / 9, colour) for place, colour in enumerate(_CIVIDIS))


def theme_of(name: ThemeName) -> Theme:
    """Return the theme called ``name``.

    Raises:
        OptgeomError: if the name is neither ``"light"`` nor ``"dark"``.
    """
    themes = {"light": LIGHT, "dark": DARK}
    if name not in themes:
        raise OptgeomError(f'theme must be "light" or "dark"; got {name!r}')
    return themes[name]


def scale(theme: Theme, name: ScaleName) -> tuple[tuple[float, str], ...]:
    """Return a colour scale: from 0 (low) to 1 (high), equal steps of the logarithm or value.

    Args:
        theme: the colours.
        name: ``"diverging"`` for norm / mean, ``"sequential"`` for every other magnitude.
    """
    return theme.diverging if name == "diverging" else SEQUENTIAL


def scale_stops(theme: Theme, name: ScaleName) -> tuple[str, ...]:
    """Return a colour scale as the stops of a CSS gradient, low to high.

    Args:
        theme: the colours.
        name: as in ``scale``.

    >>> scale_stops(LIGHT, "diverging")[:2]
    ('#5B2A86 0%', '#A583C3 25%')
    """
    return tuple(f"{colour} {100 * share:.4g}%" for share, colour in scale(theme, name))


def axis(theme: Theme, *, title: str, horizontal: bool, **settings: Any) -> dict[str, Any]:
    """Return one axis: grid lines only across, no frame, muted ticks.

    Args:
        theme: the colours.
        title: what the axis measures, with its unit.
        horizontal: True for the x axis, which has no grid.
        settings: passed on to plotly and over the defaults.
    """
    base: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 12, "color": theme.muted}, "standoff": 8},
        "tickfont": {"size": 12, "color": theme.muted},
        "showgrid": not horizontal,
        "gridcolor": theme.grid,
        "gridwidth": 1,
        "zeroline": False,
        "showline": horizontal,
        "linecolor": theme.grid,
        "ticks": "outside" if horizontal else "",
        "ticklen": 4,
        "tickcolor": theme.grid,
        "fixedrange": True,
        "automargin": False,
        # Nothing is measured: asking where each label ends took most of a figure's drawing.
        "ticklabeloverflow": "allow",
    }
    return {**base, **settings}


def layout(
    theme: Theme, *, height: int = HEIGHT, right: int = 16, **settings: Any
) -> dict[str, Any]:
    """Return the layout that all figures share.

    Args:
        theme: the colours.
        height: pixels.
        right: right margin in pixels; direct labels at line ends stand in it.
        settings: axes and whatever else one figure needs.
    """
    base: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 56, "r": right, "t": 8, "b": 40},
        "paper_bgcolor": theme.ground,
        "plot_bgcolor": theme.ground,
        "font": {"family": FONT, "size": 12, "color": theme.text},
        "showlegend": False,
        "hovermode": "x unified",
        "hoverlabel": {
            "bgcolor": theme.ground,
            "bordercolor": theme.reference,
            "font": {"family": FONT, "size": 12, "color": theme.text},
        },
        "dragmode": False,
    }
    # Plain: plotly checks it once, with the figure that it becomes part of.
    return {**base, **settings}


def crosshair(theme: Theme) -> dict[str, Any]:
    """Return the axis settings of the thin vertical line that follows the pointer."""
    return {
        "showspikes": True,
        "spikemode": "across",
        "spikethickness": 1,
        "spikedash": "solid",
        "spikecolor": theme.reference,
    }
