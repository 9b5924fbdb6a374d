"""The findings in the report: the page's section, written out, unfolded and without links."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from optgeom.dashboard.finding_words import MOST, WORDS, OfRun, Place, Told, counted
from optgeom.figures.formats import whole
from optgeom.figures.names import run_label
from optgeom.figures.theme import LIGHT
from optgeom.geometry.diagnosis.finding import Severity

_E = html.escape

STYLE = f"""
.findings h3 {{ margin: 24px 0 8px; overflow-wrap: anywhere; }}
.findings article {{ border-top: 1px solid {LIGHT.grid}; padding: 8px 0; }}
.findings p {{ margin: 0 0 8px; max-width: 100ch; overflow-wrap: anywhere; }}
.findings b {{ margin-right: 8px; font-weight: 400; white-space: nowrap; }}
.findings svg {{ width: 12px; height: 12px; margin-right: 4px; vertical-align: -1px; fill: none;
  stroke: currentColor; stroke-width: 1.5; }}
.findings table {{ font-size: 12px; }}
.findings dl {{ display: grid; grid-template-columns: fit-content(40ch) minmax(0, 80ch);
  gap: 8px 16px; margin: 8px 0; font-size: 12px; }}
.findings dd {{ margin: 0; overflow-wrap: anywhere; }}
.findings .where small {{ display: inline-block; margin: 0 16px 0 0; }}
.findings .severe {{ color: #b3261e; font-weight: 600; }}
.findings summary {{ margin: 8px 0; font-size: 12px; }}
"""

# As the page's: an octagon, a triangle, a circle, each with its sign.
_ICONS: Mapping[Severity, str] = {
    "severe": "M5 1.500h6l3.500 3.500v6L11 14.500H5L1.500 11V5zM8 4v5M8 10.500V12",
    "warning": "M8 2 14.500 13.500h-13zM8 6v4M8 11v1.500",
    "note": "M8 1.750a6.250 6.250 0 1 1 0 12.500 6.250 6.250 0 0 1 0-12.500zM8 7v4.500M8 4.500V6",
}


def section(told: Sequence[OfRun]) -> str:
    """Return the section; where nothing was found in a run, a line says so.

    Args:
        told: what is said of each run.
    """
    return (
        f'<section class="findings"><h2>Findings</h2>{"".join(_run(one) for one in told)}</section>'
    )


def _run(told: OfRun) -> str:
    name = _E(run_label(told.run))
    if not told.findings:
        return f"<h3>{name}</h3><p>{_E(told.nothing)}</p>{_missed(told.not_judged)}"
    body = "".join(_finding(one) for one in told.findings)
    return f"<h3>{name} <small>{_E(told.summary)}</small></h3>{body}{_missed(told.not_judged)}"


def _finding(told: Told) -> str:
    icon = f'<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{_ICONS[told.severity]}"/></svg>'
    word = f'<b class="{told.severity}">{icon}{WORDS[told.severity]}</b>'
    listed = told.layers[:MOST]
    rest = len(told.layers) - len(listed)
    more = f"<small>and {whole(rest)} more</small>" if rest else ""
    where = "".join(f"<small>{_label(one)}</small>" for one in listed)
    return (
        f"<article><p>{word} {_E(told.title)}</p>"
        f'<p class="where">{where}{more}<small>{_E(told.steps)}</small></p>'
        f"{_evidence(told)}{_terms((('Likely cause', told.cause), ('What to try', told.advice)))}"
        "</article>"
    )


def _label(place: Place) -> str:
    return _E(place.label)


def _evidence(told: Told) -> str:
    if not told.evidence:
        return ""
    heads = "".join(f"<th>{one}</th>" for one in ("Layer", "Step", "What", "Value", "Expected"))
    rows = "".join(
        f"<tr><td>{_label(one.place) or 'the whole run'}</td><td>{whole(one.place.step)}</td>"
        f"<td>{_E(one.what)}</td><td>{_E(one.value)}</td><td>{_E(one.expected)}</td></tr>"
        for one in told.evidence
    )
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _missed(rules: Sequence[tuple[str, str]]) -> str:
    if not rules:
        return ""
    summary = f"Not judged: {counted(len(rules), 'rule')}"
    return f"<details><summary>{summary}</summary>{_terms(rules)}</details>"


def _terms(pairs: Sequence[tuple[str, str]]) -> str:
    said = "".join(f"<dt>{_E(term)}</dt><dd>{_E(text)}</dd>" for term, text in pairs)
    return f"<dl>{said}</dl>"
