"""One figure of a page: what it looks at, how it is drawn, what is said and given away of it.

A page places pictures; the wiring, the CSV files and the report all go through this one value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dash import dcc, html

from optgeom.dashboard.looks import run_heading
from optgeom.dashboard.parts import text_help
from optgeom.dashboard.sending import Marks, digest, fresh
from optgeom.figures.empty import empty
from optgeom.figures.reading import Missing
from optgeom.figures.theme import CONFIG, HEIGHT, ThemeName, theme_of

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import pyarrow as pa

    from optgeom.dashboard.data import Runs
    from optgeom.dashboard.looks import Seen
    from optgeom.dashboard.view import View
    from optgeom.figures.theme import Theme
    from optgeom.traces.errors import OptgeomError

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


RUNS = ("a", "b", "more")
LAYER = (*RUNS, "layer", "stage")
"""Fields of a view that most pictures show."""


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
        needs: the fields of a view that it shows: while they stay, it is not even looked at.
        bar: the labels of the colour bar that the page draws for this figure and its neighbours,
            each with its place from 0 to 1.
    """

    name: str
    title: str
    explain: Explained
    look: Callable[[Runs, View], Seen | None]
    draw: Callable[[Seen, View, Theme], go.Figure]
    table: Callable[[Any], pa.Table]
    words: Callable[[Any], str]
    note: Callable[[Seen, View], str] = lambda seen, view: ""
    needs: tuple[str, ...]
    run: int | None = None
    bar: Callable[[Seen], Sequence[tuple[float, str]]] | None = None
    height: int = HEIGHT


def panel(picture: Picture, *, className: str = "") -> html.Section:
    """Return a picture's place on its page: title, "?", note, menu, graph, text alternative."""
    name = picture.name
    # One button instead of a menu of components: the page's script opens the menu beside it.
    menu = html.Button(
        "\N{MIDLINE HORIZONTAL ELLIPSIS}",
        className="icon menu-button",
        type="button",
        **{"aria-label": f"Menu of the figure {picture.title}", "data-panel": name}
        | {"aria-haspopup": "menu", "aria-expanded": "false"},
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
            html.Div(graph, role="img", **{"aria-label": picture.title}),
        ],
        className=f"panel {className}".strip(),
        id=f"{name}-panel",
        **{"aria-label": picture.title},
    )


class Group(NamedTuple):
    """Figures of a page that are asked for and drawn together.

    Attributes:
        pictures: the figures.
        still: whether they stay as they are while steps go by: their cursor is the page's own.
    """

    pictures: tuple[Picture, ...]
    still: bool = False

    @property
    def marks(self) -> str:
        """The id of the store that holds the marks of these figures."""
        return f"{self.pictures[0].name}-marks"


def stores(groups: Sequence[Group]) -> html.Div:
    """Return the stores of a page's groups; they come and go with its figures."""
    return html.Div([dcc.Store(id=group.marks) for group in groups], hidden=True)


def answer(
    picture: Picture, runs: Runs, view: View, sees: Mapping[str, Any], marks: Marks | None
) -> tuple[dict[str, Any], Marks | None]:
    """Return what a panel shows of a view, as far as the browser does not have it.

    Args:
        picture: the picture.
        runs: the runs.
        view: the view.
        sees: the view as the page sees it: its ``scheme``, and the ``token`` of the runs.
        marks: of what the browser has of this panel; None where it has nothing.

    Returns:
        Values by the outputs of its callback, and the marks of what the browser has then.
    """
    of = digest([sees["token"], sees["scheme"], *(getattr(view, name) for name in picture.needs)])
    if marks is not None and marks.get("of") == of:
        return {}, marks
    seen = picture.look(runs, view)
    if seen is None:
        new, after = fresh({"style": {"display": "none"}}, None)
        return new, after | {"of": of}
    drawn = picture.draw(seen, view, theme_of(sees["scheme"]))
    _hide_cursor(drawn)
    # The text alternative travels within the figure; the page's script puts it in its place.
    drawn.layout.meta = {**(drawn.layout.meta or {}), "words": picture.words(seen.what)}
    title: Any = picture.title
    if picture.run is not None:
        title = [run_heading(runs, view, picture.run), html.Span(title, className="panel-what")]
    parts = {
        "style": {},
        "box": {"height": f"{drawn.layout.height or picture.height}px"},
        "title": title,
        "note": picture.note(seen, view),
    }
    if picture.bar is not None:
        parts["bar"] = [_bar_label(at, text) for at, text in picture.bar(seen)]
    new, after = fresh(parts, marks, drawn)
    return new, after | {"of": of}


def _hide_cursor(figure: go.Figure) -> None:
    """Take the chosen step's line out of a figure: the page draws it over all figures at once."""
    if (figure.layout.meta or {}).get("x") == "step" and figure.layout.shapes:
        figure.layout.shapes[0].update(visible=False, x0=0, x1=0)


def _bar_label(at: float, text: str) -> html.Span:
    # A label at an end of the bar stays within it.
    end = "low" if at < 0.02 else "high" if at > 0.98 else None
    return html.Span(text, className=end, style={"left": f"{100 * at:.1f}%"})


def failed(error: OptgeomError, scheme: ThemeName) -> tuple[dict[str, Any], Marks | None]:
    """Return what a panel shows that could not be read: the cause, in its place."""
    figure = empty([Missing(f"Could not draw this: {error}", "")], theme_of(scheme))
    figure.layout.meta = {"words": f"Could not draw this: {error}."}
    return fresh({"style": {}, "note": ""}, None, figure)
