"""What of a panel travels: the parts that the browser does not have yet.

The browser keeps, beside each graph, the marks (digests) of what it was sent; the server keeps
nothing. A new step then sends the longer lines, a moved cursor one shape, an unchanged figure
nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import plotly.graph_objects as go
from dash import Patch

Marks = dict[str, Any]
"""Digests of what the browser has: ``parts`` by name, ``layout`` by key, ``data``: one dict per
trace."""


def fresh(
    parts: dict[str, Any], before: Marks | None, figure: go.Figure | None = None
) -> tuple[dict[str, Any], Marks]:
    """Return what to send of a panel, and the marks of what the browser has then.

    Args:
        parts: what stands around the figure, by name.
        before: the marks of what the browser has; None where it has nothing.
        figure: the figure as it shall be; None where the panel has none.

    Returns:
        The parts that are new, and under ``figure`` the whole figure as JSON where its structure
        changed, or a ``Patch`` of the keys that did; and the marks.
    """
    had = (before or {}).get("parts", {})
    marks: Marks = {"parts": _marked(parts)}
    found = {name: one for name, one in parts.items() if had.get(name) != marks["parts"][name]}
    if figure is not None:
        whole = figure.to_plotly_json()
        marks["layout"] = _marked(whole["layout"])
        marks["data"] = [_marked(one) for one in whole["data"]]
        if before is None or _structure(before) != _structure(marks) or _retyped(before, marks):
            found["figure"] = whole
        elif (patch := _patch(whole, before, marks)) is not None:
            found["figure"] = patch
    return found, marks


def _patch(whole: dict[str, Any], before: Marks, after: Marks) -> Patch | None:
    patch, any_change = Patch(), False
    for key, mark in after["layout"].items():
        if before["layout"][key] != mark:
            patch["layout"][key] = whole["layout"][key]
            any_change = True
    for place, one in enumerate(after["data"]):
        for key, mark in one.items():
            if before["data"][place][key] != mark:
                patch["data"][place][key] = whole["data"][place][key]
                any_change = True
    return patch if any_change else None


def _marked(part: dict[str, Any]) -> dict[str, str]:
    return {key: digest(value) for key, value in part.items()}


def digest(value: Any) -> str:
    """Return 16 hex digits over anything that JSON or dash can write."""
    text = json.dumps(value, sort_keys=True, default=_plain).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    return value.to_plotly_json() if hasattr(value, "to_plotly_json") else str(value)


def _structure(marks: Marks) -> tuple[Any, ...]:
    if "layout" not in marks:
        return ()
    return set(marks["layout"]), [set(one) for one in marks["data"]]


def _retyped(before: Marks, after: Marks) -> bool:
    pairs = zip(before["data"], after["data"], strict=True)
    return any(old.get("type") != new.get("type") for old, new in pairs)
