"""A layer whose update repeats itself, or turns back, capture after capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named, plural, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Codes, Flags, Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    IN_A_ROW,
    REPEATED_SHARE,
    REPEATS,
    REVERSES,
    SAME_SIZE,
    SLOWEST,
)

SIGNS = ("lion", "sign", "tiger")
"""In names of classes whose updates are signs: they stay the same while gradients keep theirs."""


def repeats_from(distance: Floats, momentum: float = SLOWEST.value) -> Floats:
    """The cosine from which an update repeats the one so many steps before.

    Args:
        distance: In steps.
        momentum: What of an update is left in the next one.

    >>> repeats_from(np.array([1.0, 50.0])).round(4).tolist()
    [1.0, 0.9988]
    """
    limit: Floats = 1.0 - REPEATS.value * (1.0 - momentum**distance)
    return limit


_REPEATED_CAUSE = (
    "The same batch comes every step, gradients are not computed anew (or not set to zero), the "
    "optimizer's state is frozen, the loss is linear there, so that a constant drives the layer; "
    "or one gradient far too large rules the momentum."
)
_REPEATED_ADVICE = (
    "Log the loss of single batches and the norm of the gradient before the step; "
    "check the data loader's shuffling and the place of zero_grad."
)


def _repeated(seen: Seen) -> Sequence[Finding] | NotJudged:
    slowest, sizes = _momenta(seen), seen.numbers("frobenius_norm")
    signs = {one.name for one in seen.info.optimizers if _of_signs(one.type)}

    def is_so(at: int, rows: Codes, cosine: Floats, distance: Floats) -> Flags:
        if seen.layers[at].optimizer in signs:
            return np.zeros(len(cosine), bool)
        norms = sizes.values[:, at]
        before = np.array([_last_before(norms, row) for row in rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = np.abs(norms[rows] / before - 1.0) <= SAME_SIZE.value
        found: Flags = alike & (cosine >= repeats_from(distance, slowest[at]))
        return found if found.mean() >= REPEATED_SHARE.value else np.zeros(len(cosine), bool)

    hits = _hits(seen, is_so, slowest)
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


def _last_before(norms: Floats, row: int) -> float:
    """The norm at the capture before, which the cosine is taken to."""
    known = norms[:row][np.isfinite(norms[:row])]
    return float(known[-1]) if len(known) else float("nan")


def _of_signs(name: str) -> bool:
    return any(word in name.rpartition(".")[2].lower() for word in SIGNS)


def _momenta(seen: Seen) -> list[float]:
    """The momentum of each layer's group, as slow as any in use at least."""
    known = {one.name: one.groups for one in seen.info.optimizers}
    found = []
    for layer in seen.layers:
        groups = known.get(layer.optimizer, ())
        group = groups[layer.group] if layer.group < len(groups) else {}
        named_as: list[object] = [group.get("momentum")]
        betas = group.get("betas")
        if isinstance(betas, Sequence) and len(betas):
            named_as.append(betas[0])
        numbers = [one for one in named_as if isinstance(one, int | float)]
        found.append(max([SLOWEST.value, *(float(one) for one in numbers if one < 1.0)]))
    return found


_REVERSED_CAUSE = (
    "The layer oscillates: the learning rate is too large for the curvature there, or the step "
    "takes turns with its sign."
)
_REVERSED_ADVICE = (
    "Lower the learning rate of this group, or raise its momentum; capture a few "
    "steps in a row (every=1, or burst=) to see the oscillation."
)


def _reversed(seen: Seen) -> Sequence[Finding] | NotJudged:
    hits = _hits(seen, lambda at, rows, cosine, _: cosine <= REVERSES.value, _momenta(seen))
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


_IsSo = Callable[[int, Codes, Floats, Floats], Flags]
"""From a layer, rows, their cosines and distances to where it shows."""


def _hits(seen: Seen, is_so: _IsSo, momenta: Sequence[float]) -> list[Hit] | NotJudged:
    if seen.info.computed:
        return NotJudged("the trace was computed from another run, whose momentum it has")
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
        first, length = _longest(is_so(at, rows, values, apart))
        if length < needed:
            continue
        run = rows[first : first + length]
        order = np.argsort(values[first : first + length])
        middle = int(order[length // 2])
        step, value = int(cosines.steps[run[middle]]), float(values[first + middle])
        what = f"cosine_previous, over {plural(int(apart[first + middle]), 'step')}"
        limit = float(repeats_from(apart[first + middle : first + middle + 1], momenta[at])[0])
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
    looks_at="`cosine_previous`, `steps_since_previous` and `frobenius_norm` of `update`, and the "
    "group's momentum, of every layer. Optimizers whose updates are signs (Lion, Tiger, SignSGD) "
    "are left out: theirs stay the same while gradients keep their signs.",
    means="At half of the captures or more, several of them in a row, the update points where the "
    "one before did, more than the momentum explains over so many steps, and has its size.",
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
