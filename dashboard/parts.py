"""Building blocks of the page: a mark per run, a "?" from the catalogue, a panel per figure."""

from __future__ import annotations

from typing import Any, Literal

import dash_mantine_components as dmc
from dash import dcc, html

from optgeom.figures.theme import CONFIG, HEIGHT
from optgeom.geometry.catalogue import METRICS

Side = Literal["a", "b", "more"]


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


def mark(slot: int, side: Side = "b") -> html.Span:
    """Return a run's dot: filled for B, hollow for A, a square for further runs.

    Args:
        slot: the run's colour slot.
        side: the run's place in the comparison, told by shape so that greyscale still tells.
    """
    colour = f"var(--run-{slot})" if 0 <= slot < 6 else "var(--run-other)"
    return html.Span(
        className=f"mark mark-{side}", style={"--run": colour}, **{"aria-hidden": "true"}
    )


def side_of(place: int, count: int) -> Side:
    """Return the side of the run at a place in the order A, B, further runs."""
    if count == 1:
        return "b"
    return ("a", "b")[place] if place < 2 else "more"


def help_mark(body: list[Any], *, label: str) -> dmc.HoverCard:
    """Return a "?" that explains on hover and on focus.

    Args:
        body: what the card holds.
        label: the accessible name.
    """
    button = html.Button("?", className="help", type="button", **{"aria-label": label})
    return dmc.HoverCard(
        [dmc.HoverCardTarget(button), dmc.HoverCardDropdown(body, className="help-card")],
        width=320,
        shadow="none",
        withArrow=False,
        position="bottom-start",
        openDelay=120,
    )


def metric_help(name: str) -> dmc.HoverCard:
    """Return the "?" of one metric: formula, unit, reference, how to read it."""
    metric = METRICS[name]
    lines: list[Any] = [html.Code(metric.formula), html.P(metric.help)]
    unit = "no unit" if metric.unit in ("", "1") else metric.unit
    lines.append(html.P(f"unit: {unit}", className="quiet"))
    if metric.reference:
        lines.append(html.P(f"source: {metric.reference}", className="quiet"))
    return help_mark(lines, label=f"What {metric.title} means")


def text_help(text: str, *, formula: str = "", reference: str = "", label: str) -> dmc.HoverCard:
    """Return the "?" of a figure."""
    lines: list[Any] = [html.Code(formula)] if formula else []
    lines.append(html.P(text))
    if reference:
        lines.append(html.P(f"source: {reference}", className="quiet"))
    return help_mark(lines, label=label)


def panel(name: str, title: str, explain: dmc.HoverCard, *, height: int = HEIGHT) -> html.Section:
    """Return a figure with its title in HTML, a "?", a note and a menu.

    Args:
        name: the id of the graph; ``NAME-note`` is the text beside the title.
        title: 14 px, semibold.
        explain: formula, unit, reference.
        height: pixels of the figure.
    """
    actions = {
        "png": "Save as PNG",
        "svg": "Save as SVG",
        "csv": "Save data as CSV",
        "link": "Copy link",
        "full": "Full width",
    }
    items = [
        dmc.MenuItem(text, id={"panel": name, "action": action}) for action, text in actions.items()
    ]
    button = html.Button(
        "\N{MIDLINE HORIZONTAL ELLIPSIS}",
        className="icon",
        type="button",
        **{"aria-label": f"Menu of the figure {title}"},
    )
    menu = dmc.Menu(
        [dmc.MenuTarget(button), dmc.MenuDropdown(items)], position="bottom-end", shadow="none"
    )
    head = [
        html.H2(title),
        explain,
        html.Span(id=f"{name}-note", className="panel-note"),
        html.Span(className="grow"),
        menu,
    ]
    return html.Section(
        [
            html.Div(head, className="panel-head"),
            dcc.Graph(
                id=name,
                config=CONFIG,
                responsive=True,
                className="figure",
                style={"height": f"{height}px"},
                figure=_BLANK,
            ),
        ],
        className="panel",
        id=f"{name}-panel",
    )


def empty(title: str, text: str, code: str) -> html.Div:
    """Return a block that says what is missing and the line of code that captures it."""
    return html.Div(
        [html.H2(title), html.P(text), html.Pre(html.Code(code))] if code else [html.H2(title)],
        className="empty",
    )
