"""The traces that a command line names: one, or a folder of them."""

from __future__ import annotations

from collections.abc import Mapping

import optgeom


def runs_at(path: str) -> tuple[Mapping[str, optgeom.Trace], Mapping[str, str]]:
    """The traces of a folder, or one trace; and what is wrong with those that are damaged."""
    from optgeom.traces.errors import NotATrace

    try:
        traces = optgeom.open_traces(path)
    except NotATrace:
        one = optgeom.open_trace(path)
        return {one.name: one}, {}
    return traces, {name: str(error) for name, error in traces.damaged.items()}
