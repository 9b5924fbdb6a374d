"""An update that climbs: it points against the gradient, capture after capture."""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, plural, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import ASCENDS, LASTING, STAYS

_CAUSE = (
    "A sign is wrong: the step adds the update instead of subtracting it, the direction is "
    "negated twice, or the loss is."
)
_ADVICE = (
    "Take one step on a batch with a small learning rate and compute the loss of that batch again: "
    "it has to fall. Where ascent is meant, set maximize=True, which says so."
)


def _ascends(seen: Seen) -> Sequence[Finding] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    cosines = seen.numbers("cosine_gradient")
    meant = {
        (optimizer.name, at)
        for optimizer in seen.info.optimizers
        for at, group in enumerate(optimizer.groups)
        if group.get("maximize")
    }
    hits, most = [], 0
    for at, layer in enumerate(seen.layers):
        steps, values = cosines.of(at)
        if (layer.optimizer, layer.group) in meant:
            continue
        most = max(most, len(values))
        # a few captures against it, as of a momentum after a gradient far too large, are none
        if len(values) < LASTING.value or float((values < 0.0).mean()) < STAYS.value:
            continue
        if middle(values.tolist()) > ASCENDS.value:
            continue
        step, value = nearest(steps.tolist(), values.tolist())
        evidence = Evidence(layer.name, step, "update", "cosine_gradient", value, "above 0")
        hits.append(Hit(at, steps[values < 0.0].tolist(), (evidence,), -value))
    if most < LASTING.value:
        needed = f"{LASTING.value:.0f} are needed"
        return NotJudged(f"{plural(most, 'cosine')} of update and gradient: {needed}")
    if not hits:
        return []
    values_ = [one.evidence[0].value or 0.0 for one in hits]
    return [
        finding(
            seen,
            "ascends",
            "severe",
            f"The update of {named(seen, hits)} climbs the loss: its cosine to the gradient is "
            f"{span(values_)}.",
            hits,
            cause=_CAUSE,
            advice=_ADVICE,
        )
    ]


ASCENT = Rule(
    name="ascends",
    title="The update points against the gradient",
    severity="Severe",
    looks_at="`cosine_gradient` of `update`, of every layer; groups with `maximize` are left out.",
    means="At nearly every capture the update, which is subtracted, has a negative cosine to the "
    "gradient of the same step, and clearly so at the median. A momentum may point against single "
    "gradients, and for a while after one far too large.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_ascends,
)
