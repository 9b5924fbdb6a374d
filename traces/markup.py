"""The little HTML that objects show in a notebook: tables, lists, and no assets.

All text is escaped here, for names come from anyone's files. Colours are the notebook's own, so
that light and dark themes both read well; what is secondary is only fainter.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from optgeom.traces.printable import printable

Side = Literal["left", "right"]

_CELL = "padding:.15em .8em .15em 0;vertical-align:top"


def text(value: str) -> str:
    r"""Text as HTML shows it: escaped, and control characters visible.

    >>> text("<b>\x1b[2J")
    '&lt;b&gt;\\x1b[2J'
    """
    return html.escape(printable(value))


def cell(
    value: str,
    *,
    tag: Literal["td", "th"] = "td",
    side: Side = "left",
    dim: bool = False,
    wrap: bool = False,
    span: int = 1,
) -> str:
    """One cell of a table.

    Args:
        value: plain text.
        tag: "th" for a heading.
        side: where its text stands.
        dim: fainter, for what is read second.
        wrap: whether it may take several lines.
        span: columns.
    """
    style = f"text-align:{side};{_CELL};white-space:{'normal' if wrap else 'nowrap'}"
    style += ";max-width:48em;overflow-wrap:anywhere" if wrap else ""
    style += ";opacity:.65" if dim else ""
    style += ";font-weight:600" if tag == "th" else ""
    spanned = f' colspan="{span}"' if span > 1 else ""
    return f'<{tag}{spanned} style="{style}">{text(value)}</{tag}>'


def table(rows: Iterable[Iterable[str]]) -> str:
    """A table.

    Args:
        rows: of cells, as `cell` makes them.
    """
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<table style="font-variant-numeric:tabular-nums;margin:0">{lines}</table>'


def columns(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[int] = (),
    wrap: Collection[int] = (),
) -> str:
    """A table of plain text under headings.

    Args:
        heads: one for each column.
        rows: of as many texts.
        right: the places of columns that stand to the right, as numbers do.
        wrap: the places of columns that may take several lines.
    """
    sides: list[Side] = ["right" if place in right else "left" for place in range(len(heads))]
    above = [cell(head, tag="th", side=side) for head, side in zip(heads, sides, strict=True)]
    below = [
        [
            cell(value, side=side, wrap=place in wrap)
            for place, (value, side) in enumerate(zip(row, sides, strict=True))
        ]
        for row in rows
    ]
    return table([above, *below])


def facts(pairs: Mapping[str, str]) -> str:
    """A table of two columns: what, and its value."""
    return table([cell(name, dim=True), cell(value, wrap=True)] for name, value in pairs.items())


def listed(sentences: Iterable[str]) -> str:
    """A list of sentences; "" without any."""
    found = "".join(f"<li>{text(one)}</li>" for one in sentences)
    return f'<ul style="margin:.4em 0 0;max-width:60em">{found}</ul>' if found else ""


def shown(title: str, beside: str, *parts: str) -> str:
    """The whole of what an object shows.

    Args:
        title: its name, in bold.
        beside: what stands fainter in the same line; may be "".
        parts: HTML.
    """
    faint = f' <span style="opacity:.65">{text(beside)}</span>' if beside else ""
    line = f'<div style="margin-bottom:.3em"><b>{text(title)}</b>{faint}</div>'
    return f"<div>{line}{''.join(parts)}</div>"
