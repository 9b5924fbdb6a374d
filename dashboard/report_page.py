"""How the report is written as HTML: every name escaped, plotly embedded once, nothing loaded."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from optgeom.dashboard import report_findings
from optgeom.dashboard.capture import Row as Setting
from optgeom.dashboard.cards import Card
from optgeom.dashboard.finding_words import OfRun
from optgeom.figures.theme import CONFIG, FONT, LIGHT, MONO, ScaleName, scale_stops

_E = html.escape


class Figure(NamedTuple):
    """A figure, its title (empty: none), a note beside it, and its text alternative."""

    title: str
    figure: go.Figure
    note: str = ""
    words: str = ""


class Row(NamedTuple):
    """Figures side by side, and the colour bar that they share, if they have one.

    Attributes:
        figures: the figures.
        scale: ``diverging`` or ``sequential``; empty: no bar.
        labels: its labels, each with its place from 0 to 1.
    """

    figures: tuple[Figure, ...]
    scale: ScaleName | None = None
    labels: tuple[tuple[float, str], ...] = ()


class Part(NamedTuple):
    """One layer at one step."""

    title: str
    name: str
    sentence: str
    cards: tuple[Card, ...]
    rows: tuple[Row, ...]


class Report(NamedTuple):
    """Everything that the file shows."""

    title: str
    subtitle: str
    parts: tuple[Part, ...]
    pairs: Figure
    loss: Figure | None
    findings: tuple[OfRun, ...]
    runs: tuple[str, ...]
    configuration: tuple[Setting, ...]
    cost: tuple[Setting, ...]


def render(report: Report) -> str:
    """Return the whole file.

    The content security policy in its head allows the inline scripts and nothing else: opened
    from a disk or a mail, it can load nothing and send nothing.
    """
    figures: list[Figure] = []

    def place(figure: Figure) -> str:
        figures.append(figure)
        height = figure.figure.layout.height
        words = f' aria-label="{_E(figure.words)}"' if figure.words else ""
        place = f'id="f{len(figures) - 1}" style="height:{height}px"'
        return f'<div class="figure" role="img"{words} {place}></div>'

    first, rest = report.parts[:1], report.parts[1:]
    differing = [row for row in report.configuration if row.differs]
    same = [row for row in report.configuration if not row.differs]
    body = [
        f"<header><h1>{_E(report.title)}</h1><p>{_E(report.subtitle)}</p></header>",
        *(_part(part, place) for part in first),
        f"<section><h2>Layers by neuron-norm CV</h2>{place(report.pairs)}</section>",
        *(_part(part, place) for part in rest),
        _loss(report.loss, place),
        report_findings.section(report.findings),
        "<section><h2>Configuration: what differs</h2>",
        _table(report.runs, differing) if differing else "<p>Nothing differs.</p>",
        f"<details><summary>{len(same)} settings that agree</summary>{_table(report.runs, same)}",
        "</details></section>",
        f"<section><h2>Capture</h2>{_table(report.runs, report.cost)}</section>",
    ]
    data = ",".join(_json(figure.figure) for figure in figures)
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:\">",
            f"<title>{_E(report.title)} · optgeom</title><style>{_STYLE}</style></head><body>",
            *body,
            f"<script>{get_plotlyjs()}</script>",
            f"<script>const figures=[{data}];const config={_dump(CONFIG)};{_SCRIPT}</script>",
            "</body></html>",
        ]
    )


def _part(part: Part, place: Any) -> str:
    return (
        f'<section class="part"><h2>{_E(part.title)} <small>{_E(part.name)}</small></h2>'
        f'<p class="sentence">{_E(part.sentence)}</p>{_cards(part.cards)}'
        f"{''.join(_row(row, place) for row in part.rows)}</section>"
    )


def _row(row: Row, place: Any) -> str:
    figures = "".join(
        f"<div><h3>{_E(one.title)}{_note(one)}</h3>{place(one)}</div>" for one in row.figures
    )
    return f'<div class="pair">{figures}</div>{_bar(row)}'


def _bar(row: Row) -> str:
    if row.scale is None:
        return ""
    colours = ",".join(scale_stops(LIGHT, row.scale))
    labels = "".join(
        f'<span style="left:{100 * at:.1f}%">{_E(text)}</span>' for at, text in row.labels
    )
    gradient = f"background:linear-gradient(to right,{colours})"
    return f'<div class="bar"><i style="{gradient}"></i><div>{labels}</div></div>'


def _loss(loss: Figure | None, place: Any) -> str:
    return f"<section><h2>Loss{_note(loss)}</h2>{place(loss)}</section>" if loss else ""


def _note(figure: Figure) -> str:
    return f" <small>{_E(figure.note)}</small>" if figure.note else ""


def _cards(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    runs = [cards[0].main_run, *(other.run for other in cards[0].others)]
    head = "".join(f"<th>{_E(run)}</th>" for run in runs)
    versus = "<th></th>" if len(runs) > 1 else ""
    rows = []
    for card in cards:
        values = [(card.main, card.note), *((one.value, one.note) for one in card.others)]
        cells = "".join(
            f"<td>{_E(value)}{f' <small>{_E(said)}</small>' if said else ''}</td>"
            for value, said in values
        )
        told = f"{runs[1]}: {card.versus}" if card.versus and len(runs) > 1 else card.versus
        last = f"<td>{_E(told)}</td>" if len(runs) > 1 else ""
        rows.append(f"<tr><th>{_E(card.title)}</th>{cells}{last}</tr>")
    return f'<table class="cards"><tr><th></th>{head}{versus}</tr>{"".join(rows)}</table>'


def _table(runs: Sequence[str], rows: Sequence[Setting]) -> str:
    head = "".join(f"<th>{_E(run)}</th>" for run in runs)
    body = "".join(
        f"<tr><th>{_E(row.name)}</th>{''.join(f'<td>{_E(v)}</td>' for v in row.values)}</tr>"
        for row in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _json(figure: go.Figure) -> str:
    return _safe(str(figure.to_json(remove_uids=True)))


def _dump(value: Any) -> str:
    return _safe(json.dumps(value))


def _safe(text: str) -> str:
    """Keep JSON inside a script element: no character that could end the element stays."""
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


_SCRIPT = """
figures.forEach((f, i) => Plotly.newPlot("f" + i, f.data, f.layout, config));
const fit = () => figures.forEach((_, i) => Plotly.Plots.resize("f" + i));
addEventListener("beforeprint", fit);
addEventListener("afterprint", fit);
"""

_STYLE = f"""
* {{ box-sizing: border-box; }}
body {{ font: 14px/20px {FONT}; font-variant-numeric: tabular-nums; color: {LIGHT.text};
  background: {LIGHT.ground}; max-width: 1200px; margin: 32px auto; padding: 0 16px; }}
h1 {{ font-size: 20px; line-height: 28px; margin: 0; }}
h2, h3 {{ font-size: 14px; margin: 0 0 8px; }}
header p, small {{ color: {LIGHT.muted}; font-size: 12px; margin: 0; font-weight: 400; }}
small {{ margin-left: 8px; overflow-wrap: anywhere; }}
section {{ margin-top: 40px; }}
.pair, table, .sentence {{ break-inside: avoid; }}
.sentence {{ font-size: 20px; line-height: 28px; font-weight: 600; margin: 0 0 16px; }}
.pair {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px;
  margin-top: 16px; }}
.pair > div, .figure {{ min-width: 0; }}
.bar {{ margin: 0 auto 24px 56px; width: 384px; font-size: 12px; color: {LIGHT.muted};
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
.bar i {{ display: block; height: 12px; border: 1px solid {LIGHT.grid}; }}
.bar div {{ position: relative; height: 20px; }}
.bar span {{ position: absolute; transform: translateX(-50%); white-space: nowrap; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; font-weight: 400; padding: 4px 24px 4px 0; vertical-align: top;
  border-bottom: 1px solid {LIGHT.grid}; overflow-wrap: anywhere; }}
tr:first-child th {{ font-weight: 600; white-space: nowrap; }}
tr th:first-child {{ color: {LIGHT.muted}; white-space: nowrap; }}
code, pre {{ font-family: {MONO}; }}
summary {{ cursor: pointer; margin: 16px 0; color: {LIGHT.muted}; }}
{report_findings.STYLE}
@media (max-width: 799px) {{ .pair {{ grid-template-columns: minmax(0, 1fr); }} }}
@media print {{ body {{ margin: 0; max-width: none; }} @page {{ margin: 12mm; }} }}
"""
