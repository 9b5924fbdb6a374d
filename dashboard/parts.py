"""Building blocks of the page: a mark per run, a "?" from the catalogue, a panel per figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from dash import html

from optgeom.geometry.catalogue import METRICS

Side = Literal["a", "b", "more"]


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


def computed_badge(source: str) -> html.Span:
    """Return the word that marks a run as computed, and what of."""
    return html.Span("computed", className="badge", title=f"computed from {source}, never trained")


def side_of(place: int, count: int) -> Side:
    """Return the side of the run at a place in the order A, B, further runs."""
    if count == 1:
        return "b"
    return ("a", "b")[place] if place < 2 else "more"


def help_mark(
    text: str, *, formula: str = "", notes: Sequence[str] = (), label: str
) -> html.Button:
    """Return a "?" that explains on hover and on focus; the page's script draws the card.

    Args:
        text: how to read it.
        formula: above it, in monospace.
        notes: below it, muted: unit, source.
        label: the accessible name.
    """
    said = json.dumps({"formula": formula, "text": text, "notes": list(notes)})
    return html.Button(
        "?", className="help", type="button", **{"aria-label": label, "data-help": said}
    )


def metric_help(name: str) -> html.Button:
    """Return the "?" of one metric: formula, unit, reference, how to read it."""
    metric = METRICS[name]
    unit = "no unit" if metric.unit in ("", "1") else metric.unit
    notes = [f"unit: {unit}", *([f"source: {metric.reference}"] if metric.reference else [])]
    label = f"What {metric.title} means"
    return help_mark(metric.help, formula=metric.formula, notes=notes, label=label)


def text_help(text: str, *, formula: str = "", reference: str = "", label: str) -> html.Button:
    """Return the "?" of a figure."""
    notes = [f"source: {reference}"] if reference else []
    return help_mark(text, formula=formula, notes=notes, label=label)


def empty(title: str, text: str, code: str) -> html.Div:
    """Return a block that says what is missing and the line of code that captures it."""
    return html.Div(
        [html.H2(title), html.P(text), html.Pre(html.Code(code))] if code else [html.H2(title)],
        className="empty",
    )


def colour_bar(scale: str, labels: Sequence[str], *, across: bool = False, **rest: Any) -> html.Div:
    """Return one colour bar for figures side by side.

    Args:
        scale: ``diverging`` or ``sequential``: the variable ``--scale-NAME`` of the page.
        labels: evenly spaced, from top to bottom, or from left to right where it lies across.
        across: lies below the figures instead of standing between them.
        rest: further properties, such as an id for labels that come later.
    """
    return html.Div(
        [
            html.Span(className=f"bar-colours {scale}", **{"aria-hidden": "true"}),
            html.Div([html.Span(one) for one in labels], className="bar-labels", **rest),
        ],
        className="colour-bar across" if across else "colour-bar",
    )
