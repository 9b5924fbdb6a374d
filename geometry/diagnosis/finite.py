"""Numbers that are none: where they came first, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named, plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Codes, NotJudged, Seen

_STAGES = ("gradient", "momentum", "second_moment", "ns_input", "orthogonalized", "update")
"""As a step makes one from the other."""

_CAUSES: Mapping[str, str] = {
    "gradient": "The loss or its gradient is not finite: a learning rate that is too large, an "
    "overflow in half precision, a division by zero or a logarithm of it, or a bad batch.",
    "momentum": "A gradient before was not finite, or the momentum overflowed: it stays so.",
    "second_moment": "The second moment overflowed or was divided by zero; the momentum is finite.",
    "ns_input": "What is made of the momentum before the iteration is not finite, as where a norm "
    "overflows in half precision.",
    "orthogonalized": "The iteration diverged: an input that was not divided by its norm, a wrong "
    "coefficient, or an overflow in float16.",
    "update": "The step itself makes it so: a division by zero, or an overflow in half precision.",
}
_UNKNOWN = (
    "The gradient was not finite, or the step made it so: the stages before the update were not "
    "captured, which would tell."
)
_ADVICE = (
    "Look at the loss and the gradient norm of the steps before. Lower the learning rate or clip, "
    "skip steps whose gradients are not finite, and restart from before. Capture gradient and "
    "momentum (stages=) to see where it begins."
)


def _not_finite(seen: Seen) -> Sequence[Finding] | NotJudged:
    stages = [stage for stage in _STAGES if seen.has(stage)]
    if not stages:
        return NotJudged("no stage was captured")
    bad: dict[str, tuple[Codes, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]] = {
        stage: (seen.numbers("frobenius_norm", stage).steps, seen.says("status", _WORD, stage))
        for stage in stages
    }
    begun = {
        stage: int(steps[rows.any(1)][0]) for stage, (steps, rows) in bad.items() if rows.any()
    }
    if not begun:
        return []
    taken = "update" in begun or not seen.has("update")
    first = min(begun.values())
    stage = next(one for one in stages if begun.get(one) == first)
    shown = "update" if "update" in begun else stage
    steps, rows = bad[shown]
    hits = []
    for at, layer in enumerate(seen.layers):
        mine = steps[rows[:, at]]
        if len(mine):
            evidence = Evidence(layer.name, int(mine[0]), shown, "entries not finite", None, "none")
            hits.append(Hit(at, mine.tolist(), (evidence,), -float(mine[0])))
    step, places = begun[stage], np.flatnonzero(bad[stage][1][bad[stage][0] == begun[stage]][0])
    which = [Hit(int(at), (), (), 0.0) for at in places]
    where = f"{named(seen, which)} at step {step}"
    if not taken:
        return [
            finding(
                seen,
                "not_finite",
                "note",
                f"The {stage} of {where} is not finite, and the update is: "
                f"{plural(len({one for hit in hits for one in hit.steps}), 'captured step')}.",
                hits,
                cause="A loss scale that was too large, as a GradScaler tries it: the step left "
                "such gradients out.",
                advice="Nothing, if these steps are few.",
            )
        ]
    count, total = int(rows.any(1).sum()), len(steps)
    came = f", first seen in the {stage}" if stage != "update" else ""
    return [
        finding(
            seen,
            "not_finite",
            "severe",
            f"The {shown} is not finite (NaN or infinite) at {count:,} of "
            f"{plural(total, 'captured step')}: it begins in {where}{came}.",
            hits,
            cause=_UNKNOWN if stages == ["update"] else _CAUSES[stage],
            advice=_ADVICE,
        )
    ]


_WORD = "non_finite"

NOT_FINITE = Rule(
    name="not_finite",
    title="NaN or infinity in the update",
    severity="Severe; a note where gradients are not finite and the step left them out",
    looks_at="`status` of every captured stage, of every layer.",
    means="Some entry is not finite. Told are the first captured step, the layers that have it "
    "there, and the stage in which it is seen first: gradient, momentum, ns_input, "
    "orthogonalized, update.",
    cause=" ".join((_CAUSES["gradient"], "Or:", _CAUSES["orthogonalized"])),
    advice=_ADVICE,
    judge=_not_finite,
)
