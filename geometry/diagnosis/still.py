"""Layers whose weights never move: the update is zero at every capture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named, plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import LASTING

_NO_GRADIENT = (
    "No gradient comes there: the layer is frozen (requires_grad=False), the loss does not depend "
    "on it, what feeds it is dead, or its gradient underflows to zero in float16."
)
_LOST = (
    "A gradient comes, and the step makes zero of it: an overflow in half precision that is "
    "replaced by zero, a mask, or an optimizer that skips the layer."
)
_CAUSE = f"{_NO_GRADIENT} Or the step makes zero of it, as of an overflow that is replaced by zero."
_ADVICE = (
    "If it is frozen on purpose, nothing: leave it out of the optimizer, or of watch(layers=). "
    "Else look at its p.grad before the step, or capture the stage gradient."
)


def _never_moves(seen: Seen) -> Sequence[Finding] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    steps = seen.numbers("frobenius_norm").steps
    zero, no_rate = seen.says("status", "zero"), seen.says("status", "lr_zero")
    there = zero | no_rate | ~_absent(seen)
    count = there.sum(0)
    if int(count.max(initial=0)) < LASTING.value:
        needed = f"{LASTING.value:.0f} are needed"
        return NotJudged(f"{plural(int(count.max(initial=0)), 'capture')}: {needed}")
    enough = count >= LASTING.value
    off = enough & (no_rate.sum(0) == count)
    still = enough & ((zero | no_rate).sum(0) == count) & ~off
    dead = [
        _hit(seen, int(at), steps[zero[:, at]].tolist(), "update") for at in np.flatnonzero(still)
    ]
    rates = [
        _hit(seen, int(at), steps[no_rate[:, at]].tolist(), "lr") for at in np.flatnonzero(off)
    ]
    return [*_dead(seen, dead, int(enough.sum())), *_without_rate(seen, rates)]


def _absent(seen: Seen) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where a layer has no row."""
    known = np.zeros(seen.numbers("frobenius_norm").values.shape, bool)
    for word in seen.trace.words("status", "update").words:
        known |= seen.says("status", word)
    return ~known


def _hit(seen: Seen, at: int, steps: Sequence[int], what: str) -> Hit:
    name = "lr" if what == "lr" else "frobenius_norm"
    evidence = Evidence(seen.layers[at].name, int(steps[-1]), "update", name, 0.0, "above 0")
    return Hit(at, steps, (evidence,), float(len(steps)))


def _dead(seen: Seen, hits: Sequence[Hit], judged: int) -> list[Finding]:
    if not hits:
        return []
    rest = judged - len(hits)
    others = (
        f"the other {plural(rest, 'layer')} move{'s' * (rest == 1)}" if rest else "no layer moves"
    )
    return [
        finding(
            seen,
            "never_moves",
            "warning",
            f"{named(seen, hits)} never move{'s' * (len(hits) == 1)}: the update is exactly zero "
            f"at every capture ({others}).",
            hits,
            cause=_why(seen, hits),
            advice=_ADVICE,
        )
    ]


def _why(seen: Seen, hits: Sequence[Hit]) -> str:
    """By the gradient, where that was captured."""
    if not seen.has("gradient"):
        return _CAUSE
    norms = seen.numbers("frobenius_norm", "gradient")
    alive = [bool((norms.of(one.layer)[1] > 0.0).any()) for one in hits]
    if all(alive):
        return _LOST
    return _CAUSE if any(alive) else _NO_GRADIENT


def _without_rate(seen: Seen, hits: Sequence[Hit]) -> list[Finding]:
    if not hits:
        return []
    return [
        finding(
            seen,
            "never_moves",
            "note",
            f"{named(seen, hits)} never move{'s' * (len(hits) == 1)}: the learning rate is 0 at "
            "every capture.",
            hits,
            cause="The group's lr is 0, or its schedule has not begun.",
            advice="Nothing, if that is meant.",
        )
    ]


NEVER_MOVES = Rule(
    name="never_moves",
    title="A layer that never moves",
    severity="Warning; a note where the learning rate is 0",
    looks_at="`status` of `update` (`zero`, `lr_zero`), and `frobenius_norm` of `gradient` where "
    "that was captured, of every layer.",
    means="The update is exactly zero at every capture, or the learning rate is. Layers that are "
    "in no optimizer have no rows, and nothing is said of them.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_never_moves,
)
