"""The optimizer evens out one axis of a matrix where its settings mean the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import promised
from optgeom.geometry.diagnosis.hits import Hit, finding, named, nearest
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import AXIS_EVEN, AXIS_SIGNS, AXIS_UNEVEN, ENOUGH

_OTHER = {"rows": "columns", "columns": "rows"}
_METRIC = {"rows": "neuron_norm_cv", "columns": "column_norm_cv"}

FIRST = 1
"""The last step, counted from 0, that is a first one: a zero gradient may put it off by one."""


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
    first = shared <= FIRST
    # a momentum that starts at zero: the first division leaves all norms alike
    clear = first & (found <= AXIS_EVEN.value) & (meant > 2.0 * AXIS_EVEN.value)
    later = ~first & (meant >= AXIS_UNEVEN.value) & (found < 0.5 * meant)
    lasting = bool(later.any()) and float(later.sum()) > 0.5 * float((~first).sum())
    # rows that differ later were evened out all the same: by an average that is older than they
    right = first & (meant <= AXIS_EVEN.value) & (found > 2.0 * AXIS_EVEN.value)
    if right.any() or not (clear.any() or lasting):
        return None
    chosen = clear if clear.any() else later
    step, value = nearest(shared[chosen].tolist(), meant[chosen].tolist())
    layer = seen.layers[at].name
    other = float(found[chosen][int(np.flatnonzero(shared[chosen] == step)[0])])
    evidence = (
        Evidence(layer, step, "update", _METRIC[axis], value, f"small: the {axis} are meant"),
        Evidence(layer, step, "update", _METRIC[_OTHER[axis]], other, "not smaller than the other"),
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
    if not (shown & (steps <= FIRST)).any() and float(shown.sum()) <= 0.5 * len(values):
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
        sure = any(one.steps[0] <= FIRST for one in some)
        found.append(
            finding(
                seen,
                "wrong_neuron_axis",
                "severe" if sure else "warning",
                f"The update of {named(seen, some)} is even along its {_OTHER[axis]}, where the "
                f"settings mean its {axis}.",
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
    "moment starts at zero: if that is the other axis, the finding is certain. Later the declared "
    "axis is uneven and the other is not, which is a warning alone. A matrix of one row whose "
    "entries are all of one size, in the first step or in most, was normalized entry by entry.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_wrong_axis,
)
