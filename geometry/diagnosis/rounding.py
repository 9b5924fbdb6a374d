"""Rounding eats the update, or the decay: bfloat16 weights that do not move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding, Severity
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import LOST, LOST_DECAY, LOST_SEVERE

_CAUSE = (
    "The step is smaller than half the distance between neighbouring values of the weights' dtype."
)
_ADVICE = (
    "Keep float32 weights (a master copy) and cast them for the forward pass, or round "
    "stochastically; a larger learning rate only moves the point where it happens."
)


def _lost(seen: Seen) -> Sequence[Finding] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    update = _hits(seen, "lost_update_fraction", LOST.value)
    decay = _hits(seen, "lost_decay_fraction", LOST_DECAY.value)
    if update is None and decay is None:
        return NotJudged("no row says how many entries rounding held back")
    found = []
    if update:
        shares = [100.0 * one.badness for one in update]
        worst: Severity = "severe" if max(shares) >= 100.0 * LOST_SEVERE.value else "warning"
        found.append(
            finding(
                seen,
                "lost_to_rounding",
                worst,
                f"Rounding eats the update of {named(seen, update)}: {span(shares)} % of the "
                f"entries of these {_dtypes(seen, update)} weights do not move.",
                update,
                cause=_CAUSE,
                advice=_ADVICE,
            )
        )
    if decay:
        shares = [100.0 * one.badness for one in decay]
        found.append(
            finding(
                seen,
                "lost_to_rounding",
                "warning",
                f"Rounding eats the weight decay of {named(seen, decay)}: {span(shares)} % of the "
                f"entries of these {_dtypes(seen, decay)} weights stay where they are.",
                decay,
                cause="A factor of 1 - lr * weight_decay nearer to 1 than the dtype resolves "
                "changes nothing.",
                advice=_ADVICE,
            )
        )
    return found


def _hits(seen: Seen, metric: str, limit: float) -> list[Hit] | None:
    """Layers that lose more than a limit, at the median; None where no row says anything."""
    # not `numbers`: of a lost update the loss itself is what is to be believed
    grid = seen.trace.grid(metric, "update")
    rows = np.isin(grid.steps, seen.steps)
    if not np.isfinite(grid.values[rows]).any():
        return None
    found = []
    place = {name: at for at, name in enumerate(grid.layers)}
    for at, layer in enumerate(seen.layers):
        values = grid.values[rows, place[layer.name]]
        there = np.isfinite(values)
        steps, values = grid.steps[rows][there], values[there]
        if not len(values) or middle(values.tolist()) <= limit:
            continue
        step, value = nearest(steps.tolist(), values.tolist())
        evidence = Evidence(layer.name, step, "update", metric, value, f"up to {limit:g}")
        kept = steps[values > limit]
        found.append(Hit(at, kept.tolist(), (evidence,), middle(values.tolist())))
    return found


def _dtypes(seen: Seen, hits: Sequence[Hit]) -> str:
    return " and ".join(sorted({seen.layers[one.layer].dtype for one in hits}))


LOST_TO_ROUNDING = Rule(
    name="lost_to_rounding",
    title="Rounding eats the update (bfloat16)",
    severity="Warning; severe where nine entries in ten do not move",
    looks_at="`lost_update_fraction` and `lost_decay_fraction` of `update`, of every layer.",
    means="A good part of the entries that should have moved stayed where they were, at the median "
    "over captures. Stochastic rounding moves them on average: there the finding counts what one "
    "step rounds away, which later steps make good.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_lost,
)
