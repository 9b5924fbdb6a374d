"""The optimizer evens out one axis of a matrix where its settings mean the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import promised
from optgeom.geometry.diagnosis.hits import Hit, finding, named, nearest
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    AXIS_ASPECT,
    AXIS_CLEAR,
    AXIS_EVEN,
    AXIS_MOST,
    AXIS_RATIO,
    AXIS_SIGNS,
    AXIS_UNEVEN,
    ENOUGH,
    FIRST,
)

_OTHER = {"rows": "columns", "columns": "rows"}
_METRIC = {"rows": "neuron_norm_cv", "columns": "column_norm_cv"}

_CAUSE = (
    "The mean of squares is taken over the wrong dimension, or the axis is "
    "chosen from another shape: a transposed weight, or a local shard."
)
_ADVICE = (
    "Rows of a weight as torch.nn.Linear stores it are the neurons: take the "
    "mean over dim=-1 with keepdim=True. Choose the axis from the whole matrix."
)


def _wrong_axis(seen: Seen) -> Sequence[Finding] | NotJudged:
    known = [at for at, one in promised(seen).items() if one.algorithm == "normuon"]
    if not known:
        return NotJudged("no layer is declared to be moved by NorMuon")
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    signs = [hit for at in known if (hit := _signs(seen, at)) is not None]
    declared = [at for at in known if _axis(seen, at) is not None]
    wrong = [hit for at in declared if (hit := _other_axis(seen, at)) is not None]
    lines = any(min(seen.layers[at].shape) == 1 for at in known)
    if not declared and not lines:
        return NotJudged("the settings name no neuron_axis")
    return [*_wrong(seen, wrong), *_only_signs(seen, signs)]


def _axis(seen: Seen, at: int) -> str | None:
    layer = seen.layers[at]
    # a piece of a fused matrix is evened out with the others where its columns are
    piece = layer.split is not None and not layer.split.isdigit()
    is_small = min(layer.shape) < ENOUGH.value
    return None if is_small or (piece and layer.neuron_axis == "columns") else layer.neuron_axis


def _other_axis(seen: Seen, at: int) -> Hit | None:
    """Whether the other axis than the declared one was normalized."""
    axis = _axis(seen, at)
    assert axis is not None
    steps, meant = seen.numbers(_METRIC[axis]).of(at)
    others, found = seen.numbers(_METRIC[_OTHER[axis]]).of(at)
    shared, here, there = np.intersect1d(steps, others, return_indices=True)
    if not len(shared):
        return None
    meant, found = meant[here], found[there]
    rows, cols = seen.layers[at].shape
    # orthogonalizing evens the shorter axis by itself, and leaves the longer one uneven
    longer = cols / rows if axis == "rows" else rows / cols
    is_long = longer >= AXIS_ASPECT.value
    first = shared <= FIRST.value
    # a momentum that starts at zero: the first division leaves all norms alike
    clear = first & (found <= AXIS_EVEN.value) & (meant > AXIS_CLEAR.value)
    later = ~first & (meant >= AXIS_UNEVEN.value) & (found < AXIS_RATIO.value * meant) & is_long
    enough = float(later.sum()) > AXIS_MOST.value * float((~first).sum())
    lasting = bool(later.any()) and enough
    # rows that differ later were evened out all the same: by an average that is older than they
    right = first & (meant <= AXIS_EVEN.value)
    if right.any() or not (clear.any() or lasting):
        return None
    chosen = clear if clear.any() else later
    step, value = nearest(shared[chosen].tolist(), meant[chosen].tolist())
    layer = seen.layers[at].name
    other = float(found[chosen][int(np.flatnonzero(shared[chosen] == step)[0])])
    if clear.any():
        expected = f"up to {AXIS_EVEN.value:g}: the {axis} are meant", f"above {AXIS_EVEN.value:g}"
    else:
        ratio = f"{AXIS_RATIO.value:g} times"
        expected = f"the other over {ratio} that", f"over {ratio} that of the {axis}"
    evidence = (
        Evidence(layer, step, "update", _METRIC[axis], value, expected[0]),
        Evidence(layer, step, "update", _METRIC[_OTHER[axis]], other, expected[1]),
    )
    return Hit(at, shared[clear | (later if lasting else clear)].tolist(), evidence, value)


def _signs(seen: Seen, at: int) -> Hit | None:
    """Whether a matrix of one row or column is nothing but signs: each entry was normalized."""
    rows, cols = seen.layers[at].shape
    if min(rows, cols) > 1 or max(rows, cols) < ENOUGH.value:
        return None
    metric = _METRIC["columns" if rows == 1 else "rows"]
    steps, values = seen.numbers(metric).of(at)
    # averaged over steps the second moment lets entries differ again: the first step is exact
    shown = values <= AXIS_SIGNS.value
    most = float(shown.sum()) > AXIS_MOST.value * len(values)
    if not (shown & (steps <= FIRST.value)).any() and not most:
        return None
    steps, values = steps[shown], values[shown]
    step, value = nearest(steps.tolist(), values.tolist())
    layer, expected = seen.layers[at].name, "above 0: entries of different sizes"
    evidence = Evidence(layer, step, "update", metric, value, expected)
    return Hit(at, steps.tolist(), (evidence,), 1.0)


def _wrong(seen: Seen, hits: Sequence[Hit]) -> list[Finding]:
    found: list[Finding] = []
    for axis in _OTHER:
        some = [one for one in hits if seen.layers[one.layer].neuron_axis == axis]
        if not some:
            continue
        sure = any(one.steps[0] <= FIRST.value for one in some)
        found.append(
            finding(
                seen,
                "wrong_neuron_axis",
                "severe" if sure else "warning",
                f"The update of {named(seen, some)} is "
                f"{'even along' if sure else 'nearly as even along'} its {_OTHER[axis]}"
                f"{', where the settings mean' if sure else ' as along'} its {axis}"
                f"{'' if sure else ', which alone the settings mean'}.",
                some,
                cause=_CAUSE,
                advice=_ADVICE,
            )
        )
    return found


def _only_signs(seen: Seen, hits: Sequence[Hit]) -> list[Finding]:
    if not hits:
        return []
    return [
        finding(
            seen,
            "wrong_neuron_axis",
            "warning",
            f"The update of {named(seen, hits)} is nothing but signs: all its entries are of one "
            "size.",
            hits,
            cause="A matrix of one row or one column was normalized along the axis that has one "
            "entry each, so that every entry was divided by itself.",
            advice="Normalize a single row as a whole, or give such parameters to AdamW.",
        )
    ]


WRONG_AXIS = Rule(
    name="wrong_neuron_axis",
    title="One neuron axis where another was meant",
    severity="Severe; a warning without the first step, or where only signs are left",
    looks_at="`neuron_norm_cv` and `column_norm_cv` of `update` of layers given to NorMuon, "
    "against the layer's `neuron_axis` in run.json, which is there where the settings name one.",
    means="In the run's first step the normalized axis has norms all alike, since the second "
    "moment starts at zero: if that is the other axis, the finding is certain, and if it is the "
    "declared one the layer is cleared. Without the first step it is a warning at most: the other "
    "axis, where it is by far the longer one, is nearly as even as the declared one. Of others "
    "nothing can be said then, for orthogonalizing evens the shorter axis by itself. A matrix of "
    "one row whose entries are all of one size, in the first step or in most, was normalized entry "
    "by entry.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_wrong_axis,
)
