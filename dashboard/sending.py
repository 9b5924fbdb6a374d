"""What of a figure travels: the parts that the browser does not have yet.

The browser keeps, beside each graph, the marks (digests) of what it was sent; the server keeps
nothing. A new step then sends the longer lines, a moved cursor one shape, an unchanged figure
nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import plotly.graph_objects as go
from dash import Patch, no_update

Marks = dict[str, Any]
"""``layout``: digest by key; ``data``: the same, one dict per trace."""


def changes(figure: go.Figure, before: Marks | None) -> tuple[Any, Any]:
    """Return what to send of a figure, and the marks of what the browser has then.

    Args:
        figure: the figure as it shall be.
        before: the marks of what the browser has; None where it has nothing.

    Returns:
        The whole figure as JSON where its structure changed, a ``Patch`` of the changed keys, or
        ``no_update``; and the new marks, ``no_update`` where they are as before.
    """
    whole = figure.to_plotly_json()
    layout, data = whole["layout"], whole["data"]
    marks: Marks = {"layout": _marked(layout), "data": [_marked(one) for one in data]}
    if before == marks:
        return no_update, no_update
    if before is None or _structure(before) != _structure(marks) or _retyped(before, marks):
        return whole, marks
    patch = Patch()
    for key, mark in marks["layout"].items():
        if before["layout"][key] != mark:
            patch["layout"][key] = layout[key]
    for place, one in enumerate(marks["data"]):
        for key, mark in one.items():
            if before["data"][place][key] != mark:
                patch["data"][place][key] = data[place][key]
    return patch, marks


def _marked(part: dict[str, Any]) -> dict[str, str]:
    return {key: _digest(value) for key, value in part.items()}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _structure(marks: Marks) -> tuple[Any, ...]:
    return set(marks["layout"]), [set(one) for one in marks["data"]]


def _retyped(before: Marks, after: Marks) -> bool:
    pairs = zip(before["data"], after["data"], strict=True)
    return any(old.get("type") != new.get("type") for old, new in pairs)
