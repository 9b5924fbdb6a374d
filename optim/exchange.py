"""Matrices on their way: their rows to the rank that orthogonalizes them, and home again.

With every matrix travels one number more: whether anybody has a gradient for it. Each function
starts a collective, and returns what waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from optgeom.optim.dealing import Bucket

__all__ = ["Parcel", "add_up", "send_home", "send_out", "share"]


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """Parts of some matrices of a bucket.

    Attributes:
        places: Of the matrices, in their bucket.
        matrices: (k, ..., n).
        wanted: (k,), of their dtype: nonzero where a rank has a gradient.
    """

    places: tuple[int, ...]
    matrices: Tensor
    wanted: Tensor

    @property
    def message(self) -> tuple[Tensor, Tensor]:
        """The numbers that travel."""
        return self.matrices.reshape(-1), self.wanted

    @classmethod
    def opened(cls, message: Tensor, places: tuple[int, ...], shape: Sequence[int]) -> Parcel:
        """The parcel of a message, sharing its memory; `shape` is of one matrix's part."""
        matrices, wanted = torch.split(message, [len(message) - len(places), len(places)])
        return cls(places, matrices.view(len(places), *shape), wanted)


def send_out(
    parts: Sequence[Tensor], has_gradient: Sequence[bool], bucket: Bucket
) -> Callable[[], Parcel]:
    """Bring the rows of every matrix of this replica to its owner.

    Args:
        parts: This rank's part of each matrix, all of the dtype in which they travel.
        has_gradient: Whether this rank has a gradient for it.
        bucket: Theirs.

    Returns:
        Waits, and gives the whole matrices that this rank owns, (k, m, n).
    """
    layout = bucket.layout
    replica, shard = layout.place

    def parcel(places: tuple[int, ...]) -> Parcel:
        found = [parts[i] for i in places]
        matrices = torch.stack(found) if found else parts[0].new_empty(0, *parts[0].shape)
        wanted = matrices.new_ones(len(places))  # made on the device, which is not waited for
        for at, i in enumerate(places):
            if not has_gradient[i]:
                wanted[at] = 0
        return Parcel(places, matrices, wanted)

    own = bucket.owned_by(replica, shard)
    if layout.shards is None:
        mine = parcel(own)
        return lambda: mine
    going = [parcel(bucket.owned_by(replica, other)) for other in range(len(layout.rows))]
    coming = [(own, (rows, parts[0].shape[-1])) for rows in layout.rows]
    arrive = _exchange(going, coming, bucket)

    def join() -> Parcel:
        found = arrive()
        matrices = torch.cat([one.matrices for one in found], dim=1)
        return Parcel(own, matrices, torch.stack([one.wanted for one in found]).amax(0))

    return join


def send_home(whole: Parcel, bucket: Bucket) -> Callable[[], Parcel]:
    """Bring the rows of what each owner has made back to where they belong.

    Args:
        whole: What this rank owns, as `send_out` gave it, orthogonalized.
        bucket: Theirs.

    Returns:
        Waits, and gives this rank's rows of all matrices of its replica.
    """
    layout = bucket.layout
    replica, shard = layout.place
    if layout.shards is None:
        return lambda: whole
    blocks = torch.split(whole.matrices, list(layout.rows), dim=1)
    going = [Parcel(whole.places, block, whole.wanted) for block in blocks]
    mine = (layout.rows[shard], whole.matrices.shape[-1])
    coming = [(bucket.owned_by(replica, other), mine) for other in range(len(layout.rows))]
    arrive = _exchange(going, coming, bucket)
    return lambda: _in_order(arrive())


def share(mine: Parcel, bucket: Bucket) -> Callable[[], Parcel]:
    """Give every replica what each has: from here on all of them do the same.

    Args:
        mine: This rank's part of its replica's matrices.
        bucket: Theirs.

    Returns:
        Waits, and gives this rank's part of all matrices of the bucket.
    """
    layout = bucket.layout
    if layout.replicas is None:
        return lambda: mine
    shape = mine.matrices.shape[1:]
    boxes, works = [], []
    for replica in range(layout.size[0]):
        places = bucket.of_replica(replica)
        if replica == layout.place[0]:
            box = torch.cat(mine.message)
        else:
            box = mine.matrices.new_empty(len(places) * (shape.numel() + 1))
        boxes.append((box, places))
        if places:  # broadcasts, since replicas own unequal numbers of matrices
            work = dist.broadcast(box, group=layout.replicas, group_src=replica, async_op=True)
            works.append(work)

    def arrive() -> Parcel:
        for work in works:
            work.wait()
        return _in_order([Parcel.opened(box, places, shape) for box, places in boxes])

    return arrive


def add_up(sums: Tensor, bucket: Bucket) -> Callable[[], Tensor]:
    """Add numbers up over the shards; not over the replicas, which hold the same.

    Args:
        sums: Of this rank's rows; overwritten.
        bucket: Theirs.

    Returns:
        Waits, and gives the sums.
    """
    if bucket.layout.shards is None:
        return lambda: sums
    work = dist.all_reduce(sums, group=bucket.layout.shards, async_op=True)

    def arrive() -> Tensor:
        work.wait()
        return sums

    return arrive


def _exchange(
    going: Sequence[Parcel],
    coming: Sequence[tuple[tuple[int, ...], Sequence[int]]],
    bucket: Bucket,
) -> Callable[[], list[Parcel]]:
    """All to all over the shards: one parcel for each, one from each, of known places and shape."""
    messages = [torch.cat(parcel.message) for parcel in going]
    sizes = [len(places) * (prod(shape) + 1) for places, shape in coming]
    sent = torch.cat(messages)
    got = sent.new_empty(sum(sizes))
    work = dist.all_to_all_single(
        got, sent, sizes, list(map(len, messages)), group=bucket.layout.shards, async_op=True
    )

    def arrive() -> list[Parcel]:
        work.wait()
        return [
            Parcel.opened(message, *expected)
            for message, expected in zip(torch.split(got, sizes), coming, strict=True)
        ]

    return arrive


def _in_order(parcels: Sequence[Parcel]) -> Parcel:
    places = [place for parcel in parcels for place in parcel.places]
    if not places:
        return parcels[0]
    order = sorted(range(len(places)), key=places.__getitem__)
    matrices = [matrix for parcel in parcels for matrix in parcel.matrices]
    wanted = [flag for parcel in parcels for flag in parcel.wanted]
    return Parcel(
        tuple(places[i] for i in order),
        torch.stack([matrices[i] for i in order]),
        torch.stack([wanted[i] for i in order]),
    )
