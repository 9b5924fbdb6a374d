"""A layer whose update repeats itself, or turns back, capture after capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named, plural, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Flags, Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import IN_A_ROW, REPEATS, REVERSES

_SLOWEST = 0.99
"""A momentum as slow as any in use: what of the last update is left after d steps is 0.99^d."""


def repeats_from(distance: Floats) -> Floats:
    """The cosine from which an update repeats the one so many steps before.

    >>> repeats_from(np.array([1.0, 50.0])).round(4).tolist()
    [1.0, 0.9988]
    """
    limit: Floats = 1.0 - REPEATS.value * (1.0 - _SLOWEST**distance)
    return limit


_REPEATED_CAUSE = (
    "The same batch comes every step, gradients are not computed anew (or not set to "
    "zero), the optimizer's state is frozen, or the loss is linear there: a constant "
    "drives the layer."
)
_REPEATED_ADVICE = (
    "Log the loss of single batches and the norm of the gradient before the step; "
    "check the data loader's shuffling and the place of zero_grad."
)


def _repeated(seen: Seen) -> Sequence[Finding] | NotJudged:
    hits = _hits(seen, lambda cosine, distance: cosine >= repeats_from(distance))
    if isinstance(hits, NotJudged):
        return hits
    if not hits:
        return []
    return [
        finding(
            seen,
            "repeated_update",
            "warning",
            f"The update of {named(seen, hits)} repeats itself: {_said(hits)}.",
            hits,
            cause=_REPEATED_CAUSE,
            advice=_REPEATED_ADVICE,
        )
    ]


_REVERSED_CAUSE = (
    "The layer oscillates: the learning rate is too large for the curvature there, "
    "or a sign is wrong in the step."
)
_REVERSED_ADVICE = (
    "Lower the learning rate of this group, or raise its momentum; capture a few "
    "steps in a row (every=1, or burst=) to see the oscillation."
)


def _reversed(seen: Seen) -> Sequence[Finding] | NotJudged:
    hits = _hits(seen, lambda cosine, _: cosine <= REVERSES.value)
    if isinstance(hits, NotJudged):
        return hits
    if not hits:
        return []
    return [
        finding(
            seen,
            "reversed_update",
            "warning",
            f"The update of {named(seen, hits)} turns back capture after capture: {_said(hits)}.",
            hits,
            cause=_REVERSED_CAUSE,
            advice=_REVERSED_ADVICE,
        )
    ]


def _said(hits: Sequence[Hit]) -> str:
    values = [one.evidence[0].value or 0.0 for one in hits]
    most = max(len(one.steps) for one in hits)
    digits = 3 if min(values) > 0.9 else 2
    return (
        f"cosine {span(values, digits)} to the previous capture, {plural(most, 'capture')} in a row"
    )


def _hits(seen: Seen, is_so: Callable[[Floats, Floats], Flags]) -> list[Hit] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    cosines = seen.numbers("cosine_previous")
    distances = seen.numbers("steps_since_previous")
    there = np.isfinite(cosines.values) & np.isfinite(distances.values)
    most = int(there.sum(0).max(initial=0))
    needed = int(IN_A_ROW.value)
    if most < needed:
        return NotJudged(f"{plural(most, 'cosine')} to previous captures: {needed} are needed")
    hits = []
    for at, layer in enumerate(seen.layers):
        rows = np.flatnonzero(there[:, at])
        if layer.shape[0] * layer.shape[1] < 2 or not len(rows):
            continue
        values, apart = cosines.values[rows, at], distances.values[rows, at]
        first, length = _longest(is_so(values, apart))
        if length < needed:
            continue
        run = rows[first : first + length]
        order = np.argsort(values[first : first + length])
        middle = int(order[length // 2])
        step, value = int(cosines.steps[run[middle]]), float(values[first + middle])
        what = f"cosine_previous, over {plural(int(apart[first + middle]), 'step')}"
        limit = float(repeats_from(apart[first + middle : first + middle + 1])[0])
        expected = f"above {REVERSES.value:g}" if value < 0.0 else f"below {limit:.6g}"
        evidence = Evidence(layer.name, step, "update", what, value, expected)
        hits.append(Hit(at, cosines.steps[run].tolist(), (evidence,), length + abs(value)))
    return hits


def _longest(flags: Flags) -> tuple[int, int]:
    """Where the longest run of True begins, and its length.

    >>> _longest(np.array([True, False, True, True]))
    (2, 2)
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    at = int((ends - starts).argmax())
    return int(starts[at]), int(ends[at] - starts[at])


REPEATED = Rule(
    name="repeated_update",
    title="A layer whose update repeats",
    severity="Warning",
    looks_at="`cosine_previous` and `steps_since_previous` of `update`, of every layer.",
    means="Several captures in a row point where the one before did, more than any momentum "
    "explains over so many steps.",
    cause=_REPEATED_CAUSE,
    advice=_REPEATED_ADVICE,
    judge=_repeated,
)
REVERSED = Rule(
    name="reversed_update",
    title="A layer whose update reverses",
    severity="Warning",
    looks_at="`cosine_previous` of `update`, of every layer.",
    means="Several captures in a row point against the one before. An oscillation of two steps "
    "shows where captures lie an odd number of steps apart; over an even number it looks like a "
    "repetition.",
    cause=_REVERSED_CAUSE,
    advice=_REVERSED_ADVICE,
    judge=_reversed,
)
