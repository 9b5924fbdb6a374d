"""What pages look at: the shown runs, the step, and the infos that several figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dash import html

from optgeom.dashboard.controls import badge
from optgeom.dashboard.data import Runs
from optgeom.dashboard.parts import mark, side_of
from optgeom.dashboard.view import View, nearest_stop, stops
from optgeom.figures.names import run_label, run_short
from optgeom.figures.reading import layer_in
from optgeom.figures.steps import Span, reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optgeom.traces.store import Trace

# Figures of one run each stand side by side: three at most.
COLUMNS = 3


class Seen(NamedTuple):
    """What a figure is drawn of.

    Attributes:
        what: the figure's info.
        step: the step of the view that it was made for.
        ends: the step axis shared with the figures of other runs.
        scale: the scale shared with them.
    """

    what: Any
    step: int | None
    ends: Span | None = None
    scale: Any = None


def shown_step(view: View, traces: Sequence[Trace]) -> int | None:
    """Return the slider's stop for a view."""
    return nearest_stop(stops(traces[:2], view.layer, view.stage), view.step)


def step_of(runs: Runs, view: View) -> int | None:
    """Return the step that the cursor of a view stands at; None where nothing was captured."""
    return shown_step(view, runs.some(view.runs))


def shared_ends(runs: Runs, view: View, table: str) -> Span:
    """Return the step axis that figures of several runs share: all of their captures.

    Args:
        runs: the runs.
        view: the view; its zoom, where there is one, is the axis.
        table: ``neurons``, ``spectra`` or ``metrics``: they have clocks of their own.
    """
    shown = runs.some(view.runs)[:COLUMNS]
    held = [trace for trace in shown if view.stage in trace.stages]
    if table == "metrics":
        each = [trace.steps(stage=view.stage, table=table) for trace in held]
    else:
        each = [
            trace.steps(view.layer, stage=view.stage, table=table)
            for trace in held
            if view.layer is not None and layer_in(trace, view.layer) is not None
        ]
    return reach(each, view.span)


def run_at(runs: Runs, view: View, place: int) -> Trace | None:
    """Return the shown run in a column, A first; None where there are fewer."""
    shown = runs.some(view.runs)[:COLUMNS]
    return shown[place] if place < len(shown) else None


def run_heading(runs: Runs, view: View, place: int) -> Any:
    """Return a column's title: the run's mark and its name."""
    shown = runs.some(view.runs)
    trace = shown[place]
    dot = mark(runs.slots()[trace.name], side_of(place, len(shown)))
    return html.Span(
        [dot, run_short(trace.name, limit=32), *badge(trace)],
        title=run_label(trace.name),
        className="run-name",
    )
