"""Matrices that FSDP2 has cut into rows: which placements are understood, and how ranks talk.

Only whole matrices have a spectrum, and a local shard never stands in for one: `gathering` brings
it to its owner. Collectives run in a process group of the capture's own, from the training thread,
in the same order on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from optgeom.hooks.errors import WatchError
from optgeom.optim.dealing import deal, orthogonalization_cost
from optgeom.optim.layout import is_upwards

TIMEOUT = timedelta(seconds=60)
"""How long a collective of the capture waits for a rank before capture stops."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A parameter's placement in words, and why it cannot be captured (None if it can)."""

    label: str
    refused: str | None = None


def placement_of(parameter: Tensor) -> Placement:
    """Say how a parameter lies on its mesh, and whether the capture understands that.

    >>> placement_of(torch.zeros(2, 2))
    Placement(label='replicate', refused=None)
    """
    if not isinstance(parameter, DTensor):
        return Placement("replicate")
    label = ", ".join(repr(placement) for placement in parameter.placements)
    if not is_sharded(parameter):
        return Placement(label)
    mesh, placements = parameter.device_mesh, list(parameter.placements)
    cut = [placement for placement in placements if not placement.is_replicate()]
    # not ==: a strided shard is one, with its rows in another order
    if len(placements) <= 2 and len(cut) == 1 and type(cut[0]) is Shard and cut[0].dim == 0:
        upwards = is_upwards(mesh, placements.index(cut[0]))
        if mesh.size() == dist.get_world_size() and upwards:
            return Placement(label)
        if not upwards:
            label = f"{label} over ranks {mesh.mesh.tolist()}"
            return Placement(label, f"placement ({label}) is not captured: number ranks upwards")
        label = f"{label} over {mesh.size()} of {dist.get_world_size()} ranks"
    return Placement(label, f"placement ({label}) on a {mesh.ndim}-D mesh is not captured yet")


def rows_here(parameter: Tensor) -> int:
    """How many rows this rank answers for: of equal replicas the first one does."""
    if isinstance(parameter, DTensor) and is_sharded(parameter):
        place: Sequence[int] = parameter.device_mesh.get_coordinate() or ()
        for coordinate, placement in zip(place, parameter.placements, strict=True):
            if placement.is_replicate() and coordinate > 0:
                return 0
    return int(local(parameter).shape[0])


def local(tensor: Tensor) -> Tensor:
    """This rank's plain part of a tensor: the tensor itself unless it is a DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(parameter: Tensor) -> bool:
    """Whether a rank holds only a part of a parameter."""
    return (
        isinstance(parameter, DTensor)
        and parameter.device_mesh.size() > 1
        and not all(placement.is_replicate() for placement in parameter.placements)
    )


def owners_of(
    shapes: Sequence[tuple[int, int]], rows: Sequence[Sequence[int] | NDArray[np.int64]]
) -> list[int]:
    """Which rank measures and writes each parameter's layers: one that holds rows of it.

    They are dealt by what a spectrum costs, which goes with the sides as an orthogonalization.

    Args:
        shapes: of the matrices, (m, n).
        rows: of each matrix, how many every rank has.

    >>> owners_of([(3, 4), (3, 4), (1, 4)], [[1, 1, 1], [1, 1, 1], [1, 0, 0]])
    [0, 1, 0]
    """
    if not shapes:
        return []
    found = deal([orthogonalization_cost(shape) for shape in shapes], len(rows[0]))
    for index, counts in enumerate(rows):
        if not counts[found[index]]:
            holders = np.flatnonzero(counts)
            found[index] = int(holders[index % len(holders)]) if len(holders) else 0
    return found


class Ranks:
    """The ranks that share one trace; one process is the case without communication.

    Attributes:
        size: how many there are.
        rank: which this one is.
        connected: whether the ranks can still agree; False after a collective has failed.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[Tensor]) -> None:
        """Open the capture's process group where the job is distributed; a collective.

        Args:
            names: of the captured parameters, the same on every rank.
            parameters: the layers' own.

        Raises:
            WatchError: the ranks do not watch the same layers.
        """
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.size > 1 else 0
        self.connected = True
        self._group: dist.ProcessGroup | None = None
        self._rows: list[list[int]] = [[int(p.shape[0])] for p in parameters]
        self._owners: list[int] = []
        if self.size == 1:
            return
        mine = [(n, rows_here(p)) for n, p in zip(names, parameters, strict=True)]
        everyone: list[list[tuple[str, int]]] = [[] for _ in range(self.size)]
        try:
            self._group = dist.new_group(backend=dist.get_backend(), timeout=TIMEOUT)
            dist.all_gather_object(everyone, mine, group=self._group)
        except (RuntimeError, dist.DistError) as error:
            raise WatchError(
                f"every rank must call watch, not rank 0 alone; rank {self.rank} waited "
                f"{TIMEOUT.seconds} s for the {self.size - 1} others: {str(error).splitlines()[0]}"
            ) from error
        for rank, theirs in enumerate(everyone):
            if [name for name, _ in theirs] != list(names):
                self.close()
                raise WatchError(
                    f"every rank must watch the same layers; rank {self.rank} watches "
                    f"{len(mine)}, rank {rank} {len(theirs)} of another list"
                )
        self._rows = [[rows for _, rows in layer] for layer in zip(*everyone, strict=True)]
        shapes = [(p.shape[0], p.numel() // max(1, p.shape[0])) for p in parameters]
        self._owners = owners_of(shapes, self._rows)

    def owner(self, index: int) -> int:
        """The rank that measures and writes a parameter's layers: one that holds rows of it."""
        return self._owners[index] if self.size > 1 else 0

    def rows(self, index: int) -> list[int]:
        """How many rows of a parameter every rank answers for."""
        return self._rows[index]

    def share(self, value: Any) -> Any:
        """What rank 0 holds, on every rank."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The largest of each value over all ranks; the values themselves in one process."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        with self._talking():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        agreed: list[float] = tensor.tolist()  # in one transfer
        return agreed

    def sums(self, counts: NDArray[np.float64], device: torch.device) -> NDArray[np.float64]:
        """The sum of each count over all ranks; the counts themselves in one process."""
        if self._group is None:
            return counts
        tensor = torch.from_numpy(counts.copy()).to(device)
        with self._talking():
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=self._group)
        summed: NDArray[np.float64] = tensor.cpu().numpy()
        return summed

    def deliver(self, going: Sequence[Sequence[Tensor]], coming: Sequence[int]) -> list[Tensor]:
        """Send something to every rank, and get something from each; collective.

        Args:
            going: for each rank, this one included, flat tensors, all of one dtype; at least one.
            coming: how much comes from each.

        Returns:
            What came, by rank.
        """
        sent = torch.cat([one for each in going for one in each])
        got = sent.new_empty(sum(coming))
        sizes = [sum(map(len, each)) for each in going]
        with self._talking():
            dist.all_to_all_single(got, sent, list(coming), sizes, group=self._group)
        return list(torch.split(got, list(coming)))

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.connected = False
            raise

    def close(self) -> None:
        """Give the process group back."""
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None
