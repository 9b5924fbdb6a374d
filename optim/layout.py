"""How a parameter lies over the ranks: whole, in rows, in several copies; the rest is refused.

A matrix has to be whole where it is orthogonalized, and its rows are its neurons, so a few
placements are right and every other one would give one shard's number.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

__all__ = ["Layout", "is_sharded", "is_upwards", "layout_of", "local", "zeros_beside"]

_WAYS_OUT = (
    "shard rows (Shard(0), as fully_shard does) and replicate over at most one further mesh "
    "dimension (HSDP), or mark its group algorithm='adamw'"
)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the parts of a parameter are.

    Attributes:
        shape: Of the whole parameter, (m, n) or a stack (b, m, n).
        rows: Of one matrix, on each rank of ``shards``; (m,) where this rank has whole matrices.
        shards: The ranks that hold its rows; None where this rank has whole matrices.
        replicas: The ranks that hold the same as this one; None where there are no others.
    """

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    shards: ProcessGroup | None = None
    replicas: ProcessGroup | None = None

    @property
    def travels(self) -> bool:
        """Whether ranks have to talk about it."""
        return self.shards is not None or self.replicas is not None

    @property
    def size(self) -> tuple[int, int]:
        """How many replicas, and shards of each."""
        return _size(self.replicas), _size(self.shards)

    @property
    def place(self) -> tuple[int, int]:
        """This rank's replica, and its shard."""
        return _rank(self.replicas), _rank(self.shards)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for parameters whose matrices may travel together."""
        return self.shape, self.rows, id(self.shards), id(self.replicas)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether the tensor is a DTensor; costs no import in a process that has none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory with the tensor; the tensor itself when not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def layout_of(parameter: Tensor, replicas: ProcessGroup | None = None) -> Layout:
    """Read a parameter's placement.

    Args:
        parameter: Plain, or a DTensor whose first dimension is cut over one dimension of its mesh
            and that is equal along one other (``fully_shard`` over one dimension, or HSDP).
        replicas: The ranks that hold the same plain parameters and get the same gradients.

    Raises:
        ValueError: Any other placement.
    """
    shape = tuple(parameter.shape)
    whole = (shape[-2],)
    if not is_sharded(parameter):
        return Layout(shape, whole, replicas=replicas if _size(replicas) > 1 else None)
    from torch.distributed.tensor import Replicate, Shard

    mesh = parameter.device_mesh
    shards = copies = None
    for dimension, placement in enumerate(parameter.placements):
        if mesh.size(dimension) == 1:
            continue
        if not is_upwards(mesh, dimension):
            raise ValueError(
                f"a mesh numbers its ranks upwards, got {mesh.mesh.tolist()}: a process group "
                "would have them in another order"
            )
        # not isinstance: a strided shard is one, with its rows in another order
        if type(placement) is Shard and placement.dim == 0 and shards is None:
            shards = mesh.get_group(dimension)
        elif type(placement) is Replicate and copies is None:
            copies = mesh.get_group(dimension)
        else:
            placements = ", ".join(map(repr, parameter.placements))
            raise ValueError(
                f"a parameter of shape {shape} is placed as ({placements}) on a mesh of shape "
                f"{tuple(mesh.shape)}: {_WAYS_OUT}"
            )
    if shards is None or len(shape) > 2:  # a stack is cut between its matrices
        return Layout(shape, whole, replicas=copies)
    rows = _chunks(shape[0], dist.get_world_size(shards))
    layout = Layout(shape, rows, shards, copies)
    if (held := parameter.to_local().shape[0]) != rows[layout.place[1]]:
        raise ValueError(
            f"a parameter of shape {shape} has {held} rows here where Shard(0) gives "
            f"{rows[layout.place[1]]}: {_WAYS_OUT}"
        )
    return layout


def is_upwards(mesh: DeviceMesh, dimension: int) -> bool:
    """Whether ranks are numbered along a mesh's dimension as a process group numbers them."""
    return bool((mesh.mesh.diff(dim=dimension) > 0).all())


def zeros_beside(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros for what belongs to a parameter, float32, on its device.

    Args:
        parameter: Any placement.
        shape: Global. One that begins like the parameter's is sharded like the parameter, any
            other is the same on every rank.
    """
    if not is_sharded(parameter) or shape[0] != parameter.shape[0]:
        return torch.zeros(shape, dtype=torch.float32, device=parameter.device)
    from torch.distributed.tensor import zeros

    mesh, placements = parameter.device_mesh, parameter.placements
    return zeros(shape, dtype=torch.float32, device_mesh=mesh, placements=placements)


def _size(group: ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _rank(group: ProcessGroup | None) -> int:
    return 0 if group is None else dist.get_rank(group)


def _chunks(rows: int, parts: int) -> tuple[int, ...]:
    """How ``torch.chunk`` cuts, which fully_shard follows: the last ones may be short or empty."""
    most = -(-rows // parts)
    return tuple(max(0, min(most, rows - part * most)) for part in range(parts))
