"""One of two ranks, started as ``python ranks_worker.py FOLDER RANK WORLD``: four runs in a row.

sharded: FSDP2 with an optimizer that gathers; per_shard: with one that orthogonalizes what it has;
alike: replicas with averaged gradients; apart: with everybody's own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import optgeom

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from tests.geometry.diagnosis.faults import Muon, orthogonalized  # noqa: E402
from tests.geometry.diagnosis.loops import groups, hidden, model, train  # noqa: E402


class PerShard(Muon):
    """Takes each rank's rows for the matrix."""

    def direction(
        self, p: Any, buffer: Any, group: dict[str, Any], state: dict[str, Any]
    ) -> Tensor:
        rows, cols = p.shape
        update = orthogonalized(buffer.to_local()) * 0.2 * max(rows, cols) ** 0.5
        return type(buffer).from_local(update, buffer.device_mesh, buffer.placements)


PerShard.__name__ = PerShard.__qualname__ = "Muon"


def _sharded(mesh: Any) -> nn.Module:
    net = model()
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def _averaged(net: nn.Module) -> None:
    for p in net.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    mesh = init_device_mesh("cpu", (world,))

    def gathers(net: nn.Module) -> Any:
        return optgeom.optim.Muon(groups(net), lr=0.004)

    def local(net: nn.Module) -> Any:
        return PerShard([{"params": hidden(net), "scale": "match_rms"}], lr=0.004)

    def adamw(net: nn.Module) -> Any:
        return torch.optim.AdamW(net.parameters(), lr=0.003)

    def unchanged(net: nn.Module) -> None:
        pass

    runs: dict[str, tuple[Callable[[nn.Module], Any], nn.Module, Callable[[nn.Module], None]]] = {
        "sharded": (gathers, _sharded(mesh), unchanged),
        "per_shard": (local, _sharded(mesh), unchanged),
        "alike": (adamw, model(), _averaged),
        "apart": (adamw, model(), unchanged),
    }
    for name, (make, net, before_step) in runs.items():
        train(folder / name, make, net=net, seed=rank, steps=26, before_step=before_step)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
