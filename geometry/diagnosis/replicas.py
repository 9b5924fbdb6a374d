"""Ranks disagree: weights that should be the same everywhere are not."""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.hits import Hit, finding, named, plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen

APART = "replicas_apart"
COMPARED = "replicas_compared"
"""What the capture writes at each captured step: how far the replicas of a parameter are apart,
where they are, with its name after a dot; and how many parameters it compared, by optimizer."""


_CAUSE = (
    "Gradients that are not averaged over the ranks, random numbers or data of one "
    "rank in the step, an initialization that was not shared, or state that was restored "
    "on one rank alone. Weights that differ on purpose (experts, stages of a pipeline) are "
    "shown as rank 0's here."
)
_ADVICE = (
    "Broadcast the weights and the optimizer's state from one rank at the start and "
    "after loading; check that every parameter's gradient is reduced before the step."
)


def _disagree(seen: Seen) -> Sequence[Finding] | NotJudged:
    if seen.info.computed:
        return NotJudged("the trace was computed from another run: no ranks held weights")
    if seen.info.world_size < 2:
        return NotJudged("one rank trained")
    compared: dict[int, float] = {}
    for optimizer in seen.info.optimizers:
        for step, count in seen.scalars(f"{COMPARED}.{optimizer.name}").items():
            compared[step] = compared.get(step, 0.0) + count
    if not any(compared.values()):
        return NotJudged("no weight is held by two ranks, or the trace is of an older optgeom")
    hits = []
    known: dict[str, dict[int, float]] = {}
    for at, layer in enumerate(seen.layers):
        parameter = layer.parameter or layer.name
        if parameter not in known:
            known[parameter] = dict(seen.scalars(f"{APART}.{parameter}"))
        far = known[parameter]
        if far:
            worst = max(far, key=lambda step: far[step])
            evidence = Evidence(
                layer.name, worst, "weight", "relative difference between ranks", far[worst], "0"
            )
            hits.append(Hit(at, sorted(far), (evidence,), far[worst]))
    if not hits:
        return []
    first = min(step for hit in hits for step in hit.steps)
    worst_value = max(hit.badness for hit in hits)
    return [
        finding(
            seen,
            "ranks_disagree",
            "severe",
            f"The ranks hold different weights of {named(seen, hits)}: apart by up to "
            f"{number(worst_value, 2)} of their size, seen first at step {first} "
            f"({plural(len(compared), 'captured step')} compared).",
            hits,
            cause=_CAUSE,
            advice=_ADVICE,
        )
    ]


RANKS_DISAGREE = Rule(
    name="ranks_disagree",
    title="Ranks disagree",
    severity="Severe",
    looks_at=f"The scalars `{APART}.PARAMETER`: at each captured step every rank tells a digest of "
    "some 256 entries of each weight that other ranks hold too (under DDP all of them, under HSDP "
    "the replicas of a shard), as they are before the step.",
    means="Weights that should be the same bits are not. Under plain FSDP2 every row is on one "
    "rank alone: there is nothing that could disagree.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_disagree,
)
