"""The axis of training steps: one range, one zoom and one cursor in every figure over steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from optgeom.figures.arrays import Flags, Ints
from optgeom.figures.theme import Theme, axis, layout

Span: TypeAlias = tuple[int, int]
"""The first and the last step that are shown, both included."""

META: Mapping[str, Any] = {"x": "step"}
"""What marks a figure whose x axis counts steps: a page links the zoom and cursor of these."""


def inside(steps: Ints, span: Span | None) -> Flags:
    """Say which steps lie in a span; all do where it is None."""
    if span is None:
        return np.ones(steps.shape, bool)
    return (steps >= span[0]) & (steps <= span[1])


def drawn(steps: Ints, span: Span | None) -> slice:
    """Return which ascending steps a figure draws: those of the span and one beyond either end.

    The neighbours carry lines and cells to the edges of the picture.

    >>> drawn(np.array([0, 10, 20, 30]), (12, 18)), drawn(np.array([0, 10]), None)
    (slice(1, 3, None), slice(0, 2, None))
    """
    if span is None:
        return slice(0, len(steps))
    first = int(np.searchsorted(steps, span[0], side="left"))
    stop = int(np.searchsorted(steps, span[1], side="right"))
    return slice(max(0, first - 1), min(len(steps), stop + 1))


def reach(each: Iterable[Ints], span: Span | None = None) -> Span:
    """Return the ends of the step axis: the span, or the first and last of all captured steps.

    Args:
        each: the captured steps of every shown run, ascending.
        span: the zoom; None for everything.

    >>> reach([np.array([10, 20]), np.array([0, 5])]), reach([np.array([7])]), reach([], (3, 9))
    ((0, 20), (6, 8), (3, 9))
    """
    if span is None:
        known = [steps for steps in each if len(steps)]
        first = min((int(steps[0]) for steps in known), default=0)
        last = max((int(steps[-1]) for steps in known), default=1)
    else:
        first, last = span
    return (first, last) if last > first else (first - 1, first + 1)


class HasEnds(Protocol):
    """An info of a figure over steps."""

    @property
    def ends(self) -> Span:
        """Where its axis begins and ends."""

    @property
    def missing(self) -> tuple[Any, ...]:
        """What it lacks."""


def shared_ends(infos: Iterable[HasEnds]) -> Span:
    """Return the ends of the step axis of several runs side by side.

    Args:
        infos: a heatmap each, all of the same span; those without data are left aside.
    """
    each = [one.ends for one in infos if not one.missing]
    if not each:
        return reach([])
    return min(first for first, _ in each), max(last for _, last in each)


def cursor_line(step: int | None, theme: Theme, *, over_cells: bool = False) -> dict[str, Any]:
    """Return the thin line of the chosen step: always the first shape, hidden without a step.

    Args:
        step: the step; None hides it.
        theme: the colours.
        over_cells: True on a heatmap, where the line needs more contrast.
    """
    at = 0 if step is None else step
    strong, thin = {"color": theme.text, "width": 1.5}, {"color": theme.reference, "width": 1}
    return {
        "type": "line",
        "name": "cursor",
        "visible": step is not None,
        "x0": at,
        "x1": at,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": strong if over_cells else thin,
    }


def step_layout(
    theme: Theme,
    *,
    ends: Span,
    cursor: int | None = None,
    over_cells: bool = False,
    shapes: Sequence[dict[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    x: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the layout of a figure over steps: x can be dragged to zoom, y is fixed.

    Args:
        theme: the colours.
        ends: where the x axis begins and ends.
        cursor: the chosen step; None hides its line.
        over_cells: True for a heatmap.
        shapes: further shapes.
        meta: what else a page needs to know of the figure.
        x: further settings of the x axis.
        settings: passed on to ``layout``.
    """
    close = {"dtick": 1} if ends[1] - ends[0] <= 8 else {"nticks": 7}
    return layout(
        theme,
        dragmode="zoom",
        uirevision="step",
        meta={**META, **(meta or {})},
        shapes=[cursor_line(cursor, theme, over_cells=over_cells), *shapes],
        xaxis=axis(theme, title="step", horizontal=True, tickformat=",d", **close)
        | {"range": list(ends), "fixedrange": False, "type": "linear"}
        | dict(x or {}),
        **settings,
    )
