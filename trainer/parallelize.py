"""One process or many: which device, which ranks, and how the model is spread over them.

The model knows nothing of this. Started by ``torchrun``, every rank runs the same program.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from optgeom.trainer.config import Device
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.model import GPT


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Where this process stands among those that train one model.

    Attributes:
        rank: From 0 to ``world - 1``.
        world: How many there are; 1 without torchrun.
        device: What this one computes on.
    """

    rank: int
    world: int
    device: torch.device

    def slice(self, batch: int) -> slice:
        """This rank's part of a global batch; raises where it does not divide."""
        if batch % self.world:
            raise ConfigError(
                f"data.batch must be a multiple of the number of ranks ({self.world}), "
                f"got {batch}: use {-(-batch // self.world) * self.world}, for example"
            )
        share = batch // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks, in place; a collective."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """Join the process group that torchrun announces, and leave it whatever happens.

    gloo on CPUs, NCCL on GPUs. Without torchrun, or for one rank, there is no process group.

    Args:
        device: As in ``TrainConfig``.

    Yields:
        This process's place.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' needs a GPU that torch can use, got none: use 'cpu'")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    world, local_rank = (
        int(os.environ.get(name, d)) for name, d in (("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(rank=0, world=1, device=place)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), device=place)
    finally:
        dist.destroy_process_group()


def parallelize(model: GPT, ranks: Ranks) -> None:
    """Spread a model over the ranks, in place: each block a unit of its own, then the rest.

    Rows of every parameter are sharded (FSDP2, DTensor Shard(0)); gradients come out averaged.
    One rank: the model stays as it is.

    Args:
        model: The whole model with equal weights on every rank, on its device.
        ranks: Who takes part.
    """
    if ranks.world == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
