"""Weight decay that is set and not applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import DECAY_MISSING, DECAY_SEEN, DECAY_TWICE, LASTING

_CAUSE = (
    "The step does not read weight_decay, or reads it from another group, or the "
    "decay is applied to a copy of the weights."
)
_ADVICE = (
    "Multiply the weights by 1 - lr * weight_decay in the step, or set weight_decay "
    "to 0, so that the settings say what happens."
)


def _decay_not_applied(seen: Seen) -> Sequence[Finding] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    setting, lr = seen.numbers("weight_decay").values, seen.numbers("lr").values
    if not np.isfinite(setting).any():
        return NotJudged("no optimizer has a setting weight_decay")
    if not (setting > 0.0).any():
        return NotJudged("weight_decay is 0 in every layer")
    asked = (setting * lr >= DECAY_SEEN.value) & seen.says("status", "ok")
    if not asked.any():
        return NotJudged("lr times weight_decay is too small to be told from rounding")
    missing = asked & seen.says("decay_form", "none")
    with np.errstate(invalid="ignore"):
        share = missing.sum(0) / asked.sum(0)
    hits = []
    steps = seen.numbers("weight_decay").steps
    for at in np.flatnonzero(share >= DECAY_MISSING.value).tolist():
        captures = steps[missing[:, at]]
        row = int(np.flatnonzero(missing[:, at])[-1])
        wanted = float(setting[row, at] * lr[row, at])
        layer, step = seen.layers[at].name, int(steps[row])
        evidence = Evidence(layer, step, "update", "decay", 0.0, f"{number(wanted)} a step")
        hits.append(Hit(at, captures.tolist(), (evidence,), wanted))
    if not hits:
        return []
    values = sorted({float(np.nanmax(setting[:, hit.layer])) for hit in hits})
    return [
        finding(
            seen,
            "decay_not_applied",
            "warning",
            f"weight_decay={', '.join(number(value) for value in values)} is set and not applied "
            f"in {named(seen, hits)}: the step does not shrink the weights, and adds nothing of "
            "them.",
            hits,
            cause=_CAUSE,
            advice=_ADVICE,
        )
    ]


_TWICE_CAUSE = (
    "The step scales the weights down in two places, as where a wrapper adds the decay to an "
    "optimizer that has it already; or a parameter is in two groups that both decay it."
)
_TWICE_ADVICE = "Apply it once. A weight_decay that was tuned this way has to be doubled then."


def _decay_twice(seen: Seen) -> Sequence[Finding] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    setting, lr, applied = (seen.numbers(one) for one in ("weight_decay", "lr", "decay"))
    asked = setting.values * lr.values
    there = (asked >= DECAY_SEEN.value) & np.isfinite(applied.values)
    there &= seen.says("decay_form", "decoupled")
    if not there.any():
        return NotJudged("no weight decay was seen that scales the weights down")
    hits = []
    for at, layer in enumerate(seen.layers):
        rows = np.flatnonzero(there[:, at])
        if len(rows) < LASTING.value:
            continue
        factors = applied.values[rows, at] / asked[rows, at]
        if abs(middle(factors.tolist()) - 2.0) > DECAY_TWICE.value:
            continue
        row = int(rows[int(np.abs(factors - np.median(factors)).argmin())])
        value, wanted = float(applied.values[row, at]), float(asked[row, at])
        step, expected = int(applied.steps[row]), f"{number(wanted)}: lr * weight_decay"
        evidence = Evidence(layer.name, step, "update", "decay", value, expected)
        hits.append(Hit(at, applied.steps[rows].tolist(), (evidence,), wanted))
    if not hits:
        return []
    return [
        finding(
            seen,
            "decay_twice",
            "warning",
            f"Weight decay is applied twice in {named(seen, hits)}: a step shrinks the weights by "
            "2 * lr * weight_decay.",
            hits,
            cause=_TWICE_CAUSE,
            advice=_TWICE_ADVICE,
        )
    ]


DECAY = Rule(
    name="decay_not_applied",
    title="Weight decay set but not applied",
    severity="Warning",
    looks_at="`decay_form` beside `weight_decay` and `lr`, of `update`, of every layer.",
    means="The step was followed operation by operation and neither scaled the weights down nor "
    "made anything of them, although the group has a weight decay. Forms that cannot be told "
    "(`unknown`) are left out: they count as applied.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_decay_not_applied,
)
DECAY_TWICE_RULE = Rule(
    name="decay_twice",
    title="Weight decay applied twice",
    severity="Warning",
    looks_at="`decay` beside `weight_decay` and `lr`, of `update`, where `decay_form` is "
    "`decoupled`, of every layer.",
    means="The step was followed operation by operation and shrinks the weights by twice what lr "
    "and weight_decay make.",
    cause=_TWICE_CAUSE,
    advice=_TWICE_ADVICE,
    judge=_decay_twice,
)
