"""Which matrices travel together, and which rank orthogonalizes which."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import Parameter

from optgeom.optim.layout import Layout

__all__ = ["Bucket", "buckets_of", "deal", "orthogonalization_cost"]

BUCKET_BYTES = 32 << 20
"""Bytes of matrices that a rank orthogonalizes at once, if one alone is not larger."""


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Matrices of one shape, dtype and layout.

    Attributes:
        params: The parameters, in the order of their group.
        layout: Of each.
        owners: For each, the replica and the shard that orthogonalize it.
    """

    params: tuple[Parameter, ...]
    layout: Layout
    owners: tuple[tuple[int, int], ...]

    def owned_by(self, replica: int, shard: int) -> tuple[int, ...]:
        """Places in ``params`` of what a rank orthogonalizes."""
        return tuple(i for i, owner in enumerate(self.owners) if owner == (replica, shard))

    def of_replica(self, replica: int) -> tuple[int, ...]:
        """Places of what the ranks of a replica orthogonalize."""
        return tuple(i for i, owner in enumerate(self.owners) if owner[0] == replica)


def orthogonalization_cost(shape: Sequence[int]) -> int:
    """Flops of a Newton-Schulz step on a stack of matrices.

    >>> orthogonalization_cost((2, 3)), orthogonalization_cost((5, 3, 2))
    (64, 320)
    """
    *stack, rows, cols = shape
    short, long = min(rows, cols), max(rows, cols)
    flops = 4 * short * short * long + 2 * short**3
    for count in stack:
        flops *= count
    return flops


def deal(costs: Sequence[int], ranks: int) -> list[int]:
    """Deal work: the dearest first, each to the rank that has the least.

    Args:
        costs: Of every piece of work.
        ranks: How many share it.

    Returns:
        A rank for every piece. The busiest has at most 4/3 of the least that is possible
        (R. L. Graham, 1969).

    >>> deal([1, 1, 4, 2], ranks=2)
    [1, 1, 0, 1]
    """
    least = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, rank = heapq.heappop(least)
        owners[piece] = rank
        heapq.heappush(least, (load + costs[piece], rank))
    return owners


def buckets_of(params: Sequence[Parameter], layouts: Sequence[Layout]) -> list[Bucket]:
    """Put matrices together that travel together; the same on every rank.

    Args:
        params: Of one parameter group.
        layouts: Of each.

    Returns:
        Buckets in the order of their first matrix, each small enough for ``BUCKET_BYTES``.
    """
    owners = _owners(layouts)
    alike: dict[object, list[int]] = {}
    for i, (p, layout) in enumerate(zip(params, layouts, strict=True)):
        alike.setdefault((layout.key, p.dtype, p.device), []).append(i)
    found = []
    for places in alike.values():
        layout = layouts[places[0]]
        replicas, shards = layout.size
        count = replicas * shards * max(1, BUCKET_BYTES // max(1, _nbytes(params[places[0]])))
        for start in range(0, len(places), count):
            some = places[start : start + count]
            found.append(
                Bucket(
                    tuple(params[i] for i in some),
                    layout,
                    tuple(divmod(owners[i], shards) for i in some),
                )
            )
    return found


def _owners(layouts: Sequence[Layout]) -> list[int]:
    """For each parameter, a rank of its replicas times shards, shards running fastest."""
    over: dict[object, list[int]] = {}
    for i, layout in enumerate(layouts):
        over.setdefault((id(layout.shards), id(layout.replicas)), []).append(i)
    owners = [0] * len(layouts)
    for places in over.values():
        replicas, shards = layouts[places[0]].size
        costs = [orthogonalization_cost(layouts[i].shape) for i in places]
        for i, owner in zip(places, deal(costs, replicas * shards), strict=True):
            owners[i] = owner
    return owners


def _nbytes(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()
