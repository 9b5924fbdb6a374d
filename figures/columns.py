"""The columns of a heatmap over steps: cells as wide as the time between captures, gaps kept.

A column stands around its capture and ends halfway to the next one. Where captures are farther
apart than usual nothing is drawn between them. More captures than columns are grouped, and a
group shows one of its entries, whichever the caller scores highest, never a mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optgeom.figures.arrays import NO_FLOATS, NO_INTS, Flags, Floats, Ints
from optgeom.figures.steps import Span, inside

# 256 rows of 168 columns with value, neuron and step in four bytes each are 0.76 MB in JSON, where
# base64 is a third longer than bytes, and plotly escapes each of its slashes.
MOST = 168
# Captures farther apart than this many usual spacings leave a gap.
APART = 2.5


class Columns(NamedTuple):
    """How captures become columns.

    Attributes:
        edges: where columns begin and end on the step axis, one more than there are columns.
        starts: the first capture of each column.
        stops: one past its last capture; equal to ``starts`` in a gap.
    """

    edges: Floats
    starts: Ints
    stops: Ints


NO_COLUMNS = Columns(NO_FLOATS, NO_INTS, NO_INTS)


def columns_of(steps: Ints, *, most: int = MOST) -> Columns:
    """Lay captures out as columns.

    Args:
        steps: ascending captured steps.
        most: columns at most, gaps included.

    >>> columns_of(np.array([0, 10, 20, 90])).edges.tolist()
    [-5.0, 5.0, 15.0, 25.0, 85.0, 95.0]
    """
    if not len(steps):
        return NO_COLUMNS
    spacing = np.diff(steps).astype(np.float64)
    usual = float(np.median(spacing)) if spacing.size else 2.0
    gap = spacing > APART * usual
    if len(steps) + gap.sum() > most:
        gap = _widest(spacing, gap, most // 4)
        begins = _grouped(steps, gap, most - 2 * int(gap.sum()))
    else:
        begins = np.arange(len(steps))
    ends = np.append(begins[1:], len(steps))
    edges: list[float] = [steps[0] - usual / 2]
    starts: list[int] = []
    stops: list[int] = []
    for start, stop in zip(begins.tolist(), ends.tolist(), strict=True):
        starts.append(start)
        stops.append(stop)
        if stop == len(steps):
            edges.append(steps[-1] + usual / 2)
        elif gap[stop - 1]:
            edges += [steps[stop - 1] + usual / 2, steps[stop] - usual / 2]
            starts.append(stop)
            stops.append(stop)
        else:
            edges.append((steps[stop - 1] + steps[stop]) / 2)
    return Columns(np.array(edges), np.array(starts, np.int64), np.array(stops, np.int64))


def _widest(spacing: Floats, gap: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """Keep the widest gaps only: narrower ones would be thinner than a column."""
    if gap.sum() <= count:
        return gap
    order = np.argsort(np.where(gap, -spacing, np.inf), kind="stable")
    kept = np.zeros(len(gap), bool)
    kept[order[:count]] = True
    return kept


def _grouped(steps: Ints, gap: npt.NDArray[np.bool_], count: int) -> Ints:
    """Return where groups begin: equal stretches of steps, never across a gap."""
    width = (steps[-1] - steps[0]) / count
    stretch = np.minimum(((steps - steps[0]) / width).astype(np.int64), count - 1)
    new = np.append(True, (np.diff(stretch) > 0) | gap)
    return np.flatnonzero(new)


def pick(scores: npt.NDArray[Any], columns: Columns) -> Ints:
    """Return which capture each cell shows, (r, c): the one with the highest score.

    Args:
        scores: (r, k), a row per row of the heatmap, a column per capture; NaN never wins over a
            number.
        columns: how the captures are laid out.

    Returns:
        Captures, -1 in gaps.
    """
    starts, stops = columns.starts, columns.stops
    found = np.tile(np.where(stops > starts, starts, -1), (len(scores), 1))
    for place in np.flatnonzero(stops - starts > 1):
        block = scores[:, starts[place] : stops[place]]
        block = np.where(np.isnan(block), -np.inf, block)
        found[:, place] += block.argmax(axis=1)
    return found


def at(values: npt.NDArray[Any], picked: Ints) -> Floats:
    """Return the values of picked captures, (r, k) to (r, c) float64, NaN in gaps."""
    rows = np.arange(len(picked))[:, None]
    taken = values[rows, np.maximum(picked, 0)].astype(np.float64)
    return np.where(picked >= 0, taken, np.nan)


def usable(values: Floats, at: Ints, span: Span | None) -> Flags:
    """Say which cells hold a number of a capture within the span.

    Args:
        values: (rows, columns), NaN where there is none.
        at: the captured step that each value is of, -1 where there is none.
        span: the zoom; None for all steps.
    """
    found: Flags = np.isfinite(values) & inside(at, span) & (at >= 0)
    return found
