"""One rank of the FSDP2 test, started as ``python fsdp_worker.py FOLDER RANK WORLD``.

Writes to FOLDER what each optimizer made of sharded parameters, gathered.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from optgeom.optim import Muon, NorMuon

# Over two ranks: 33 + 32 rows, a wide one, one row for two ranks, one row each, a stack.
SHAPES = {
    "uneven": (65, 40),
    "wide": (40, 65),
    "one_row": (1, 16),
    "two_rows": (2, 7),
    "stack": (3, 8, 12),
    "vector": (5,),
    "scalar": (1,),
}
CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "paper": (NorMuon, {"family": "paper"}),
    "released": (NorMuon, {"family": "released"}),
    "dion": (NorMuon, {"family": "dion"}),
    "larger-axis": (NorMuon, {"family": "larger-axis"}),
    "muon": (Muon, {}),
}
STEPS = 4


class Bag(nn.Module):
    """Parameters whose gradients are the matrices given to ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        for name, shape in SHAPES.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))

    def forward(self, gradients: dict[str, Tensor]) -> Tensor:
        terms = [(getattr(self, name) * value).sum() for name, value in gradients.items()]
        return torch.stack(terms).sum()


def gradients_at(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def build(model: Bag, case: str) -> Any:
    cls, settings = CASES[case]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": rest, "algorithm": "adamw", "lr": 0.01}]
    return cls(groups, lr=0.02, weight_decay=0.1, **settings)


def train(model: Bag, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(gradients_at(step)).backward()
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def outcome(model: Bag, optimizer: Any) -> dict[str, Any]:
    return {
        "weights": {name: whole(p) for name, p in model.named_parameters()},
        "state": {
            name: {key: whole(value) for key, value in optimizer.state[p].items()}
            for name, p in model.named_parameters()
        },
    }


def single(case: str) -> dict[str, Any]:
    """The same run in one process, nothing sharded."""
    model = Bag()
    optimizer = build(model, case)
    train(model, optimizer, range(STEPS))
    return outcome(model, optimizer)


def sharded(case: str, world: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (world,))
    model = fully_shard(Bag(), mesh=mesh)
    optimizer = build(model, case)
    seen: list[tuple[int, ...]] = []

    def observe(_p: Any, stage: str, tensor: Any) -> None:
        if stage != "update":  # which is of the local part
            seen.append(tuple(tensor.shape))

    optimizer.stage_observer = observe
    train(model, optimizer, range(STEPS - 1))
    middle = deepcopy(get_optimizer_state_dict(model, optimizer))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, range(STEPS - 1, STEPS))
    found = outcome(model, optimizer) | {"seen": seen}
    found["local_rows"] = {name: p.to_local().shape[0] for name, p in model.named_parameters()}

    resumed = fully_shard(Bag(), mesh=mesh)
    again = build(resumed, case)
    with torch.no_grad():
        for name, p in resumed.named_parameters():
            p.copy_(weights[name])
    set_optimizer_state_dict(resumed, again, middle)
    train(resumed, again, range(STEPS - 1, STEPS))
    return found | {"resumed": outcome(resumed, again)}


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    results = {case: sharded(case, world) for case in CASES}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
