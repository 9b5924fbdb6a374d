"""Rounding eats the update, or the decay: bfloat16 weights that do not move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding, Severity
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Column, Flags, Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    FAR_BELOW,
    LASTING,
    LOST,
    LOST_DECAY,
    LOST_SEVERE,
)

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
        is_severe = max(shares) >= 100.0 * LOST_SEVERE.value and not _still_rises(seen)
        worst: Severity = "severe" if is_severe else "warning"
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
    losses = _plain(seen, metric)
    lrs, norms = (_plain(seen, name) for name in ("lr", "frobenius_norm"))
    if not np.isfinite(losses.values).any():
        return None
    found = []
    for at, layer in enumerate(seen.layers):
        there = np.isfinite(losses.values[:, at])
        there &= _not_far_below(lrs.values[:, at], 1.0)
        there &= _not_far_below(norms.values[:, at], 0.9)
        steps, values = losses.steps[there], losses.values[there, at]
        past = values > limit
        if len(values) < LASTING.value or middle(values.tolist()) <= limit:
            continue
        step, value = nearest(steps[past].tolist(), values[past].tolist())
        evidence = Evidence(layer.name, step, "update", metric, value, f"up to {limit:g}")
        found.append(Hit(at, steps[past].tolist(), (evidence,), middle(values.tolist())))
    return found


def _plain(seen: Seen, column: str) -> Column:
    grid = seen.trace.grid(column, "update")
    rows, place = np.isin(grid.steps, seen.steps), list(grid.layers).index
    places = np.array([place(layer.name) for layer in seen.layers], np.intp)
    return Column(grid.steps[rows], grid.values[np.ix_(rows, places)])


def _not_far_below(values: Floats, quantile: float) -> Flags:
    """Where values are not far below what they mostly are; null ones count as not."""
    there = values[np.isfinite(values)]
    if not len(there):
        return np.ones(values.shape, bool)
    usual = float(np.quantile(there, quantile))
    kept: Flags = ~(values < FAR_BELOW.value * usual)
    return kept


def _still_rises(seen: Seen) -> bool:
    """Whether the learning rate is still in its warm-up at the last capture."""
    lr = _plain(seen, "lr").values
    return len(lr) > 1 and bool((lr[-1] > lr[-2]).any())


def _dtypes(seen: Seen, hits: Sequence[Hit]) -> str:
    return " and ".join(sorted({seen.layers[one.layer].dtype for one in hits}))


LOST_TO_ROUNDING = Rule(
    name="lost_to_rounding",
    title="Rounding eats the update (bfloat16)",
    severity="Warning; severe where nine entries in ten do not move, and lr no longer rises",
    looks_at="`lost_update_fraction` and `lost_decay_fraction` of `update`, of every layer.",
    means="A good part of the entries that should have moved stayed where they were, at the "
    "median over captures. Captures at which lr, or the update, is next to nothing beside the rest "
    "of the run are left out: there nothing is meant to move. Stochastic rounding moves entries on "
    "average: there the finding counts what one step rounds away, which later steps make good.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_lost,
)
