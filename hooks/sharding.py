"""Matrices that FSDP2 has cut into rows: which placements are understood, and the gathering.

Only whole matrices have a spectrum, and a local shard never stands in for one: each captured
matrix is gathered to every rank and measured by its owner. Collectives run in a process group of
the capture's own, from the training thread, in the order of the layers on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

TIMEOUT = timedelta(seconds=120)
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
    mesh = parameter.device_mesh
    if mesh.ndim == 1 and (parameter.placements[0] == Shard(0) or mesh.size() == 1):
        return Placement(label)
    if all(placement.is_replicate() for placement in parameter.placements):
        return Placement(label)
    return Placement(label, f"placement ({label}) on a {mesh.ndim}-D mesh is not captured yet")


def local(tensor: Tensor) -> Tensor:
    """This rank's plain part of a tensor: the tensor itself unless it is a DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Ranks:
    """The ranks that share one trace; one process is the case without communication."""

    def __init__(self, parameters: list[Tensor]) -> None:
        """Open the capture's process group where the job is distributed.

        Args:
            parameters: of all captured layers, in the order in which every rank gathers them.
        """
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.size > 1 else 0
        self._group: dist.ProcessGroup | None = None
        self._rows: list[list[int]] = []
        if self.size == 1:
            return
        self._group = dist.new_group(backend=dist.get_backend(), timeout=TIMEOUT)
        mine = [local(parameter).shape[0] for parameter in parameters]
        everyone: list[list[int]] = [[] for _ in range(self.size)]
        dist.all_gather_object(everyone, mine, group=self._group)
        self._rows = [list(rows) for rows in zip(*everyone, strict=True)]

    def owner(self, index: int) -> int:
        """The rank that measures and writes a layer, dealt round-robin."""
        return index % self.size

    def share(self, value: Any) -> Any:
        """What rank 0 holds, on every rank."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, values: list[float], device: torch.device) -> list[float]:
        """The largest of each value over all ranks; the values themselves in one process."""
        if self._group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return [float(value) for value in tensor]

    def gather(self, index: int, shard: Tensor, parameter: Tensor) -> Tensor:
        """The whole tensor of which every rank holds rows.

        Args:
            index: of the layer, in the order given at the start.
            shard: this rank's rows, any float dtype.
            parameter: the parameter that the tensor has the shape of.

        Returns:
            A tensor of the parameter's global shape; `shard` itself where nothing is sharded.
        """
        if self._group is None or not isinstance(parameter, DTensor):
            return shard
        if all(placement.is_replicate() for placement in parameter.placements):
            return shard
        rows = self._rows[index]
        padded = shard.new_zeros((max(rows), *shard.shape[1:]))
        padded[: shard.shape[0]] = shard
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded, group=self._group)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def close(self) -> None:
        """Give the process group back."""
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None
