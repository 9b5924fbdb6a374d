"""The neurons that move most and least at a step, and whether they do so at every capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from optgeom.figures.arrays import NO_FLOATS, NO_INTS, Floats, Ints

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

DOMINANT, DORMANT = "dominant", "dormant"


class Extremes(NamedTuple):
    """The dominant neurons of a step, largest norm first, then the dormant, smallest first.

    Attributes:
        step: the captured step; None where there was none yet, or its norms have no usable mean.
        total: neurons of the layer.
        captures: how many captures ``mean_ratio`` and ``times`` are taken over.
        which: ``dominant`` or ``dormant``.
        neuron: the row of the matrix.
        norm: its norm.
        ratio: norm / mean at the step.
        rank: 1 for the largest norm of the step.
        mean_ratio: norm / mean, averaged over all captures.
        times: at how many captures it was among as many dominant (or dormant) neurons.
    """

    step: int | None
    total: int
    captures: int
    which: tuple[str, ...]
    neuron: Ints
    norm: Floats
    ratio: Floats
    rank: Ints
    mean_ratio: Floats
    times: Ints


def extremes(
    trace: Trace,
    layer: str,
    step: int | None = None,
    stage: str = "update",
    *,
    count: int = 20,
) -> Extremes:
    """Return the neurons with the largest and the smallest norms of a step.

    Of equal norms the neuron with the smaller number counts as the larger one. No neuron is both:
    of fewer than ``2 * count`` neurons each half is shown.

    Args:
        trace: the run.
        layer: the layer's name.
        step: the captured step, or the nearest earlier one; None for the last.
        stage: the stage of the norms.
        count: how many of either kind.

    Raises:
        NotCaptured: the trace has no such layer.
    """
    trace.layer(layer)
    captured = (
        trace.steps(layer, stage=stage, table="neurons") if stage in trace.stages else NO_INTS
    )
    stop = len(captured) if step is None else int(np.searchsorted(captured, step, side="right"))
    nothing = Extremes(None, 0, 0, (), NO_INTS, NO_FLOATS, NO_FLOATS, NO_INTS, NO_FLOATS, NO_INTS)
    if not stop:
        return nothing
    norms = trace.neurons(layer, stage=stage)[1]
    means = norms.mean(axis=1, dtype=np.float64)
    usable = np.isfinite(means) & (means > 0)
    total = norms.shape[1]
    if not usable[stop - 1]:
        return nothing._replace(total=total)
    here = norms[stop - 1]
    order = np.argsort(-here, kind="stable")
    ups, downs = min(count, (total + 1) // 2), min(count, total // 2)
    neurons = np.concatenate([order[:ups], order[total - downs :][::-1]])
    ranks = np.concatenate([np.arange(ups), total - 1 - np.arange(downs)]) + 1
    every = norms[usable]
    mean_ratio = (every[:, neurons].astype(np.float64) / means[usable, None]).mean(axis=0)
    return Extremes(
        int(captured[stop - 1]),
        total,
        int(usable.sum()),
        (DOMINANT,) * ups + (DORMANT,) * downs,
        neurons,
        here[neurons].astype(np.float64),
        here[neurons].astype(np.float64) / means[stop - 1],
        ranks,
        mean_ratio,
        _times(every, neurons, ups, downs),
    )


def _times(norms: npt.NDArray[np.floating], neurons: Ints, ups: int, downs: int) -> Ints:
    """Count the captures, (k, m) norms, at which each neuron is among the extreme ones.

    Only the limit of each capture is sorted out; an exact rank is needed where a norm equals it.
    """
    total = norms.shape[1]
    ordered = np.sort(norms, axis=1)
    of = norms[:, neurons]
    dominant = np.arange(len(neurons)) < ups
    high = ordered[:, total - ups][:, None]
    low = ordered[:, max(downs, 1) - 1][:, None]
    inside = np.where(dominant, of > high, of < low)
    for row, place in np.argwhere(np.where(dominant, of == high, of == low)).tolist():
        neuron, value = int(neurons[place]), of[row, place]
        larger = int((norms[row] > value).sum() + (norms[row, :neuron] == value).sum())
        inside[row, place] = larger < ups if dominant[place] else larger >= total - downs
    counts: Ints = inside.sum(axis=0)
    return counts


def table(what: Extremes, *, run: str, layer: str, stage: str) -> pa.Table:
    """Return the rows as a table, with what they are of."""
    count = len(what.neuron)
    step = pa.nulls(count, pa.int64()) if what.step is None else pa.array([what.step] * count)
    return pa.table(
        {
            "run": pa.array([run] * count, pa.string()),
            "layer": pa.array([layer] * count, pa.string()),
            "stage": pa.array([stage] * count, pa.string()),
            "step": step,
            "moves": pa.array(what.which, pa.string()),
            "neuron": what.neuron,
            "norm": what.norm,
            "norm / mean": what.ratio,
            "rank": what.rank,
            "norm / mean, all captures": what.mean_ratio,
            "captures among the extreme": what.times,
            "captures": pa.array([what.captures] * count, pa.int64()),
        }
    )
