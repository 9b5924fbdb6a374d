"""Do the ranks that should hold the same weights hold the same weights?

A few numbers of every replicated parameter ride along with what the ranks agree on at each captured
step anyway: no collective is added, no tensor is copied, nothing of the run changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from optgeom.hooks.sharding import is_sharded
from optgeom.hooks.slot import Slot
from optgeom.hooks.targets import Target

NUMBERS = 3
"""How many numbers a replica tells of a parameter: its digest, that negated, and its size."""

ROUNDING = 1e-12
"""Relative difference of digests that summing in another order may leave."""

_NOTHING = [-math.inf] * NUMBERS


def replica(parameter: Tensor) -> tuple[int, int]:
    """Which of how many different parts this rank holds; other ranks may hold the same one.

    >>> replica(torch.zeros(2, 2))
    (0, 1)
    """
    if not (isinstance(parameter, DTensor) and is_sharded(parameter)):
        return 0, 1
    place: Sequence[int] = parameter.device_mesh.get_coordinate() or ()
    at, count = 0, 1
    for dim, placement in enumerate(parameter.placements):
        if not placement.is_replicate():
            at = at * parameter.device_mesh.size(dim) + (place[dim] if place else 0)
            count *= parameter.device_mesh.size(dim)
    return at, count


def _parts(target: Target, world: int) -> int:
    """How many parts of a parameter are compared: none, where no two ranks hold the same."""
    count = replica(target.parameter)[1]
    return count if count < world else 0


def digests(targets: Sequence[Target], slots: Sequence[Slot], world: int) -> list[float]:
    """What this rank tells of its replicas, for the ranks to agree on by maximum.

    The weights are those before the step: there every replica has to be the same, whatever the
    optimizer brings together when.

    Args:
        targets: of the captured step, the same on every rank.
        slots: theirs; none on a rank whose capture has failed, which tells nothing.
        world: how many ranks there are.

    Returns:
        `NUMBERS` per part of each target that is compared.
    """
    counts = [_parts(target, world) for target in targets]
    if not slots or not any(counts):
        return _NOTHING * sum(counts)
    told = [slot.sampled.double() for slot, count in zip(slots, counts, strict=True) if count]
    sums = torch.stack([torch.stack((one.sum(), one.abs().sum())) for one in told])
    mine = iter(sums.nan_to_num().tolist())
    found: list[float] = []
    for target, count in zip(targets, counts, strict=True):
        if count:
            digest, size = next(mine)
            at = replica(target.parameter)[0]
            parts = [[digest, -digest, size] if part == at else _NOTHING for part in range(count)]
            found += [number for part in parts for number in part]
    return found


def apart(
    targets: Sequence[Target], agreed: Sequence[float], world: int
) -> Iterator[tuple[Target, float]]:
    """How far the replicas of each compared target are apart, relative to their size; 0 if alike.

    Args:
        targets: as of `digests`.
        agreed: what it gave, the largest over all ranks.
        world: how many ranks there are.
    """
    numbers = iter(agreed)
    for target in targets:
        count = _parts(target, world)
        worst = 0.0
        for _ in range(count):
            high, low, size = (next(numbers) for _ in range(NUMBERS))
            if math.isfinite(high) and math.isfinite(low) and size > 0.0:
                worst = max(worst, (high + low) / size)
        if count:
            yield target, worst if worst > ROUNDING else 0.0
