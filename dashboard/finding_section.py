"""The findings as the page shows them: the count in the header, the section of the page Runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dash import dcc, html

from optgeom.dashboard.controls import badge
from optgeom.dashboard.finding_words import (
    HELP,
    MOST,
    WORDS,
    OfRun,
    Piece,
    Place,
    Shown,
    Told,
    counted,
)
from optgeom.dashboard.parts import mark, side_of, text_help
from optgeom.dashboard.view import STAGES, View, search
from optgeom.figures.formats import whole
from optgeom.figures.names import run_label, shorten

if TYPE_CHECKING:
    from optgeom.geometry.diagnosis.finding import Severity
    from optgeom.traces.store import Trace

ANCHOR = "findings"
"""The section's id: the address of the page Runs leads to it with ``#findings``."""

STORES = ("sees-findings", "findings-known", "sees-runs-findings")
"""What the count looks at, what is known then, and the same while the page Runs is shown."""


def count_link() -> dcc.Link:
    """Return the header's count: empty, and not to be seen, until something is known."""
    return dcc.Link(
        [],
        href=f"/runs#{ANCHOR}",
        id="findings-count",
        className="findings-count",
        title="What the records of these runs say is wrong with their optimizers",
    )


def count(pieces: Sequence[Piece] | None) -> list[Any]:
    """Return what stands in the header's link; nothing where nothing is known."""
    if pieces is None:
        return []
    found: list[Any] = []
    for piece in pieces:
        if piece.kind == "severe":
            found.append(severity("severe", piece.text))
        elif piece.kind == "warning":
            found += [_icon("warning"), html.Span(piece.text)]
        else:
            found.append(html.Span(piece.text, className="quiet"))
    return found


def section() -> html.Section:
    """Return the section of the page Runs, without what was found."""
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Findings", id="findings-title", tabIndex=-1),
                    text_help(HELP, label="What Findings shows"),
                    html.Span("of the runs under comparison", className="panel-note"),
                ],
                className="panel-head",
            ),
            html.Div(
                html.P("Looking at the runs …", className="quiet"),
                id="findings-body",
                className="findings",
            ),
        ],
        id=ANCHOR,
        className="panel",
        **{"aria-labelledby": "findings-title"},
    )


def body(traces: Sequence[Trace], told: Sequence[OfRun], slots: dict[str, int]) -> list[Any]:
    """Return what was found in each run, in the order of the comparison.

    Args:
        traces: the runs under comparison.
        told: what is said of each.
        slots: the colour slot of every run.
    """
    runs = tuple(trace.name for trace in traces)
    return [
        _run(trace, one, runs, mark(slots[trace.name], side_of(place, len(traces))))
        for place, (trace, one) in enumerate(zip(traces, told, strict=True))
    ]


def _run(trace: Trace, told: OfRun, runs: tuple[str, ...], dot: html.Span) -> html.Article:
    label = run_label(trace.name)
    name = html.H3(
        [dot, html.Span(shorten(label, 64)), *badge(trace)], title=label, className="run-name"
    )
    parts: list[Any] = [
        html.Div([name, html.Span(told.summary, className="quiet")], className="findings-run")
    ]
    if told.findings:
        parts.append(html.Ul([html.Li(_finding(one, runs)) for one in told.findings]))
    if told.nothing:
        parts.append(html.P(told.nothing))
    if told.not_judged:
        parts.append(_not_judged(told.not_judged))
    return html.Article(parts, **{"aria-label": label})


def _finding(told: Told, runs: tuple[str, ...]) -> list[Any]:
    first = told.first
    rest = len(told.layers) - len(first)
    where: list[Any] = [_opens(one, runs) for one in first]
    if rest:
        where.append(html.Span(f"and {whole(rest)} more"))
    if told.steps:
        where.append(html.Span(told.steps))
    more = [html.Summary("Evidence, cause, what to try"), _details(told, runs)]
    return [
        severity(told.severity),
        html.Div(
            [
                html.P(told.title, className="finding-title"),
                html.P(where, className="finding-where"),
                html.Details(more, className="finding-more"),
            ],
            className="finding",
        ),
    ]


def _details(told: Told, runs: tuple[str, ...]) -> html.Div:
    terms = [("Likely cause", told.cause), ("What to try", told.advice)]
    parts: list[Any] = [_evidence(told.evidence, runs)] if told.evidence else []
    said: list[Any] = []
    for term, text in terms:
        said += [html.Dt(term), html.Dd(text)]
    if len(told.layers) > len(told.first):
        listed = told.layers[:MOST]
        rest = len(told.layers) - len(listed)
        everything: list[Any] = [_opens(one, runs) for one in listed]
        if rest:
            everything.append(
                html.Span(f"and {whole(rest)} more, which optgeom diagnose --json lists")
            )
        said += [html.Dt("All layers"), html.Dd(everything, className="finding-where")]
    return html.Div([*parts, html.Dl(said)])


def _evidence(rows: Sequence[Shown], runs: tuple[str, ...]) -> html.Div:
    heads = ("Layer", "Step", "What", "Value", "Expected")
    numbers = ("Step", "Value")
    table = html.Table(
        [
            html.Thead(
                html.Tr(
                    [
                        html.Th(one, scope="col", className="number" if one in numbers else None)
                        for one in heads
                    ]
                )
            ),
            html.Tbody(
                [
                    html.Tr(
                        [
                            html.Td(
                                _opens(one.place, runs) if one.place.layer else "the whole run"
                            ),
                            html.Td(whole(one.place.step), className="number"),
                            html.Td(one.what),
                            html.Td(one.value, className="number"),
                            html.Td(one.expected),
                        ]
                    )
                    for one in rows
                ]
            ),
        ],
        className="evidence",
    )
    return html.Div(table, className="evidence-box")


def _not_judged(rules: Sequence[tuple[str, str]]) -> html.Details:
    said: list[Any] = []
    for title, why in rules:
        said += [html.Dt(title), html.Dd(why)]
    summary = html.Summary(f"Not judged: {counted(len(rules), 'rule')}")
    return html.Details([summary, html.Dl(said)], className="finding-more")


def _opens(place: Place, runs: tuple[str, ...]) -> html.A:
    """Return a layer that opens Balance at the layer, step and stage.

    The page's script keeps the rest of the view on a plain click; opened in another tab, the
    address has what the finding is about.
    """
    stage = place.stage if place.stage in STAGES else "update"
    view = View(
        a=runs[0],
        b=runs[1] if len(runs) > 1 else None,
        alone=len(runs) == 1,
        more=runs[2:],
        layer=place.layer,
        stage=stage,
        step=place.step,
    )
    said = f"{place.layer} at step {whole(place.step)}, on the page Balance"
    return html.A(
        place.label,
        href=f"/{search(view)}",
        className="opens",
        title=said,
        **{"data-layer": place.layer, "data-step": str(place.step), "data-stage": stage},
    )


def severity(which: Severity, text: str = "") -> html.Span:
    """Return a severity's icon and word; red for severe only."""
    return html.Span([_icon(which), html.Span(text or WORDS[which])], className=f"severity {which}")


def _icon(which: Severity) -> html.Span:
    return html.Span(className=f"glyph glyph-{which}", **{"aria-hidden": "true"})
