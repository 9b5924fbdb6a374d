"""One figure of a page: what it looks at, how it is drawn, what is said and given away of it.

A page places pictures; the wiring, the CSV files and the report all go through this one value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import dcc, html

from optgeom.dashboard.looks import run_heading
from optgeom.dashboard.parts import text_help
from optgeom.dashboard.sending import Marks, changes
from optgeom.figures.theme import CONFIG, HEIGHT, ThemeName, theme_of

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import pyarrow as pa

    from optgeom.dashboard.data import Runs
    from optgeom.dashboard.looks import Seen
    from optgeom.dashboard.view import View
    from optgeom.figures.theme import Theme

ACTIONS = {
    "png": "Save as PNG",
    "svg": "Save as SVG",
    "csv": "Save data as CSV",
    "link": "Copy link to this view",
    "full": "Full width",
}
# Before the first answer: no axes, no ground of its own.
_BLANK: dict[str, Any] = {
    "data": [],
    "layout": {
        "xaxis": {"visible": False},
        "yaxis": {"visible": False},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What the "?" beside a figure's title says."""

    text: str
    formula: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure.

    Attributes:
        name: the graph's id, and the name of its files.
        title: what the panel shows, 14 px.
        explain: formula and reading help.
        height: pixels.
        look: the figure's info for a view; None where the view has no such picture (one run
            fewer), which hides its panel.
        draw: the figure of an info.
        note: the text beside the title, such as "Muon: step 390".
        table: the data for CSV.
        words: the text alternative.
        run: the column of the run that it is of, A first; None where it draws all shown runs.
            Its title on the page is that run's name.
        bar: the labels of the colour bar that the page draws for this figure and its neighbours.
    """

    name: str
    title: str
    explain: Explained
    look: Callable[[Runs, View], Seen | None]
    draw: Callable[[Seen, View, Theme], go.Figure]
    table: Callable[[Any], pa.Table]
    words: Callable[[Any], str]
    note: Callable[[Seen, View], str] = lambda seen, view: ""
    run: int | None = None
    bar: Callable[[Seen], Sequence[str]] | None = None
    height: int = HEIGHT


def panel(picture: Picture, *, className: str = "") -> html.Section:
    """Return a picture's place on its page: title, "?", note, menu, graph, text alternative."""
    name = picture.name
    items = [
        dmc.MenuItem(text, id={"panel": name, "action": action}) for action, text in ACTIONS.items()
    ]
    button = html.Button(
        "\N{MIDLINE HORIZONTAL ELLIPSIS}",
        className="icon",
        type="button",
        **{"aria-label": f"Menu of the figure {picture.title}"},
    )
    menu = dmc.Menu(
        [dmc.MenuTarget(button), dmc.MenuDropdown(items)], position="bottom-end", shadow="none"
    )
    explain = picture.explain
    head = [
        html.H2(picture.title, id=f"{name}-title"),
        text_help(
            explain.text,
            formula=explain.formula,
            reference=explain.reference,
            label=f"What {picture.title} shows",
        ),
        html.Span(id=f"{name}-note", className="panel-note"),
        html.Span(className="grow"),
        menu,
    ]
    graph = dcc.Graph(
        id=name,
        config=CONFIG,
        responsive=True,
        className="figure",
        style={"height": f"{picture.height}px"},
        figure=_BLANK,
    )
    return html.Section(
        [
            html.Div(head, className="panel-head"),
            html.Div(graph, role="img", **{"aria-describedby": f"{name}-words"}),
            html.P(id=f"{name}-words", className="words"),
            dcc.Store(id=f"{name}-marks"),
        ],
        className=f"panel {className}".strip(),
        id=f"{name}-panel",
        **{"aria-label": picture.title},
    )


def answer(
    picture: Picture, runs: Runs, view: View, scheme: ThemeName, marks: Marks | None
) -> dict[str, Any]:
    """Return what a panel shows of a view: the keys are the outputs of its callback."""
    seen = picture.look(runs, view)
    if seen is None:
        return {"style": {"display": "none"}}
    drawn = picture.draw(seen, view, theme_of(scheme))
    figure, after = changes(drawn, marks)
    bar = {} if picture.bar is None else {"bar": [html.Span(one) for one in picture.bar(seen)]}
    title: Any = picture.title
    if picture.run is not None:
        title = [run_heading(runs, view, picture.run), html.Span(title, className="panel-what")]
    return {
        "style": {},
        "figure": figure,
        "box": {"height": f"{drawn.layout.height or picture.height}px"},
        "marks": after,
        "title": title,
        "note": picture.note(seen, view),
        "words": picture.words(seen.what),
    } | bar
