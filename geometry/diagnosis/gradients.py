"""Gradients that the step overwrites: whoever reads them afterwards reads something else."""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen

SCALAR = "gradients_overwritten"
"""What the capture counts at each captured step, with the optimizer's name after a dot."""


_CAUSE = (
    "The optimizer computes in place in p.grad: momentum mixed into it, an orthogonalized matrix "
    "left there, as in some published implementations of Muon. Or gradients are unscaled (a fused "
    "optimizer under a GradScaler), clipped (a hook before the step) or zeroed within the step, "
    "all of which is meant."
)
_ADVICE = (
    "Nothing, if nobody reads p.grad after step(). Gradient norms that are logged there are those "
    "of what the step left: read them before the step, or have the optimizer work on a copy. (The "
    "stage gradient is captured before it is overwritten.)"
)


def _overwritten(seen: Seen) -> Sequence[Finding] | NotJudged:
    told = {one.name: seen.scalars(f"{SCALAR}.{one.name}") for one in seen.info.optimizers}
    if seen.info.computed:
        return NotJudged("the trace was computed from another run: no step was taken")
    if not any(told.values()):
        return NotJudged("the trace does not count them: it is of an older optgeom")
    found = []
    for optimizer in seen.info.optimizers:
        counts = {step: count for step, count in told[optimizer.name].items() if count}
        if not counts:
            continue
        worst = max(counts, key=lambda step: (counts[step], step))
        evidence = Evidence("", worst, "gradient", "gradients written to", counts[worst], "0")
        found.append(
            Finding(
                rule="gradient_overwritten",
                severity="note",
                title=f"The step of {optimizer.name} writes to the gradients: to "
                f"{plural(int(counts[worst]), 'gradient')} at "
                f"{plural(len(counts), 'captured step')}.",
                layers=tuple(
                    layer.name for layer in seen.layers if layer.optimizer == optimizer.name
                ),
                steps=tuple(sorted(counts)),
                evidence=(evidence,),
                cause=_CAUSE,
                advice=_ADVICE,
            )
        )
    return found


GRADIENT_OVERWRITTEN = Rule(
    name="gradient_overwritten",
    title="Gradients overwritten by the step",
    severity="Note",
    looks_at=f"The scalars `{SCALAR}.OPTIMIZER`, which count at each captured step the gradients "
    "that the step wrote to. With several ranks, those of rank 0.",
    means="Some gradients were written to between the beginning and the end of the step.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_overwritten,
)
