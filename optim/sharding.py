"""Sharded parameters (DTensor, as FSDP2's fully_shard leaves them): gather, take back.

Everything that looks at a whole matrix (orthogonalization, neuron statistics, norms, shape
factors) gets the whole matrix on every rank; only elementwise state stays on its shard.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["gather", "is_sharded", "local", "take_back"]


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether the tensor is a DTensor; costs no import in a process that has none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory with the tensor; the tensor itself when not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gather(part: Tensor, *, like: Tensor) -> Tensor:
    """The whole of what each rank holds a part of.

    A collective when ``like`` is sharded: every rank must call it, in the same order.

    Args:
        part: This rank's part, laid out as ``local(like)``.
        like: The parameter; its mesh, placements and global shape are taken.

    Returns:
        The full tensor on every rank; ``part`` itself when ``like`` is not sharded.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    whole = DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return whole.full_tensor()


def take_back(full: Tensor, *, like: Tensor) -> Tensor:
    """Lay a full tensor, equal on every rank, out as ``like`` is; no communication.

    Args:
        full: The global shape of ``like``.
        like: The parameter.

    Returns:
        A DTensor with ``like``'s placements; ``full`` itself when ``like`` is not sharded.
    """
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, like.placements)
