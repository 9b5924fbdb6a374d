"""Weight decay that is set and not applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import DECAY_MISSING, DECAY_SEEN

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
