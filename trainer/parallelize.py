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
from torch._C._distributed_c10d import HashStore  # public by its documentation, not by its name
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from optgeom.trainer.config import Device, TrainConfig
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.model import GPT, Block


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

    def slice(self, batch: int, portions: int = 1) -> slice:
        """This rank's part of a global batch; raises where it does not divide into portions."""
        if batch % (self.world * portions):
            times = f" times accumulate ({portions})" if portions > 1 else ""
            least = self.world * portions
            raise ConfigError(
                f"data.batch must be a multiple of the number of ranks ({self.world}){times}, "
                f"got {batch}: use {-(-batch // least) * least}, for example"
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
def join_ranks(device: Device, *, grouped: bool = False) -> Iterator[Ranks]:
    """Join the process group that torchrun announces, and leave it whatever happens.

    gloo on CPUs, NCCL on GPUs.

    Args:
        device: As in ``TrainConfig``.
        grouped: Whether one rank alone makes a process group too, for what is done through it.

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
    if world == 1 and not grouped:
        yield Ranks(rank=0, world=1, device=place)
        return
    backend = "nccl" if on_gpu else "gloo"
    if world == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend)
    try:
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), device=place)
    finally:
        dist.destroy_process_group()


def parallelize(model: GPT, ranks: Ranks, config: TrainConfig) -> None:
    """Spread a model over the ranks, in place: each block a unit of its own, then the rest.

    Rows of every parameter are sharded (FSDP2, DTensor Shard(0)); gradients come out averaged, in
    float32. One rank that computes in float32: the model stays as it is.

    Args:
        model: The whole model with equal weights on every rank, on its device.
        ranks: Who takes part.
        config: ``recompute`` and ``precision`` are read.
    """
    for block in model.blocks:
        assert isinstance(block, Block)
        block.recompute = config.recompute
    if ranks.world == 1 and config.precision == "float32":
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    low = torch.bfloat16 if config.precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
