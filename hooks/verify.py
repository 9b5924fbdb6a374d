"""Whether sampled weights moved as the rows say, and how many of them rounding held back.

A row promises W_after = (1 - decay) W_before - lr update. That is asked of a few hundred entries of
every matrix at every capture, in one transfer from the device: a write that showed no operation
is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.hooks.samples import pick
from optgeom.hooks.slot import Slot

ULPS = 2.0
"""Units in the last place that one operation on the weights may be off by."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a row says about a slot's weights.

    Attributes:
        slot: finished.
        lr: the divisor.
        decay: what was observed; for a handed-over update what the settings say, to be tried.
        tries_none: whether no decay at all is tried too.
    """

    slot: Slot
    lr: float
    decay: float
    tries_none: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the samples of one slot say.

    Attributes:
        verified: whether every sampled entry is where the row puts it.
        decay: the decay that agrees.
        counts: lost and all sampled entries of the update, lost and all of the decay.
    """

    verified: bool
    decay: float
    counts: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def outcomes(promises: Sequence[Promise]) -> list[Outcome]:
    """Compare every slot's samples with what its row promises.

    Args:
        promises: of finished slots, on this rank.

    Returns:
        One outcome each; entries that are not finite before or after agree with anything.
    """
    found: dict[int, Outcome] = {}
    alike: dict[torch.dtype, list[int]] = {}
    for place, promise in enumerate(promises):
        slot = promise.slot
        by_another_rule = slot.formula is not None and not slot.formula.agrees
        if slot.moved is None or slot.rewritten or by_another_rule or not slot.in_place:
            found[place] = Outcome(False, promise.decay)
        elif not slot.moved.numel():
            found[place] = Outcome(True, promise.decay)
        else:
            alike.setdefault(slot.weights.dtype, []).append(place)
    for dtype, places in alike.items():
        chosen = [promises[place] for place in places]
        found |= dict(zip(places, _compared(chosen, dtype), strict=True))
    return [found[place] for place in range(len(promises))]


def _compared(promises: Sequence[Promise], dtype: torch.dtype) -> list[Outcome]:
    slots = [promise.slot for promise in promises]
    kinds = [
        [slot.sampled for slot in slots],
        [pick(slot.now) for slot in slots],
        [slot.moved for slot in slots if slot.moved is not None],
    ]
    if any(slot.fold.reach is not None for slot in slots):
        kinds.append(
            [torch.zeros_like(s.sampled) if (r := s.fold.reach) is None else r for s in slots]
        )
    before, after, moved, *sizes = _host(kinds)
    reach = sum(sizes, np.maximum(np.abs(before), np.abs(after)))
    lengths = [slot.sampled.numel() for slot in slots]
    starts = np.cumsum([0, *lengths[:-1]])

    def each(values: Sequence[float]) -> Floats:
        return np.repeat(np.asarray(values, dtype=np.float64), lengths)

    operations = each([max(slot.fold.operations, 2) for slot in slots])
    step = moved * each([-promise.lr for promise in promises])
    decays = np.array([promise.decay for promise in promises])
    right = _agrees(before, after, step, each(list(decays)), reach, operations, dtype, starts)
    if any(promise.tries_none for promise in promises):
        without = np.array([p.tries_none for p in promises]) & ~right
        decays = np.where(without, 0.0, decays)
        right = _agrees(before, after, step, each(list(decays)), reach, operations, dtype, starts)
    counts = _held_back(before, step, each(list(decays)), dtype, starts)
    return [
        Outcome(
            bool(good), float(decay), (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
        )
        for good, decay, row in zip(right, decays, counts, strict=True)
    ]


def _host(kinds: Sequence[Sequence[Tensor]]) -> Floats:
    """Samples by kind, (kinds, all of them), in one transfer."""
    rows = torch.stack([torch.cat(list(kind)).to(torch.float64) for kind in kinds])
    values: Floats = rows.cpu().numpy()
    return values


def _agrees(
    before: Floats,
    after: Floats,
    step: Floats,
    decay: Floats,
    reach: Floats,
    operations: Floats,
    dtype: torch.dtype,
    starts: NDArray[Any],
) -> NDArray[np.bool_]:
    info = torch.finfo(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = (1.0 - decay) * before + step
        # a non-finite step is the optimizer's business, not a disagreement of ours
        known = np.isfinite(expected) & np.isfinite(after) & (np.abs(expected) <= info.max)
        bound = info.eps * np.maximum(reach, np.abs(step)) + info.smallest_normal
        bound *= ULPS * operations
        right = (np.abs(expected - after) <= bound) | ~known
    return np.logical_and.reduceat(right, starts)


def _held_back(
    before: Floats, step: Floats, decay: Floats, dtype: torch.dtype, starts: NDArray[Any]
) -> Floats:
    """(slots, 4): lost and all of the update, lost and all of the decay, among the samples."""
    if dtype not in (torch.float32, torch.float64):
        return np.zeros((len(starts), 4))  # counted entry by entry, at the operations
    stored = np.float32 if dtype == torch.float32 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        weights = before.astype(stored)
        decayed = weights * (1.0 - decay).astype(stored)
        term = step.astype(stored)
        asked, decaying = term != 0, (decay != 0.0) & (weights != 0)
        lost = asked & (decayed + term == decayed)
        stayed = decaying & (decayed == weights)
    columns = np.stack([lost, asked, stayed, decaying], axis=1).astype(np.float64)
    counts: Floats = np.add.reduceat(columns, starts, axis=0)
    return counts
