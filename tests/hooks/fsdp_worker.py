"""One rank of the two-rank capture tests, started as ``python fsdp_worker.py FOLDER RANK WORLD``.

FOLDER/plan.json says what to do; what was seen is written to FOLDER/rankN.json.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import optgeom.hooks.gathering
from optgeom.hooks import View, watch
from optgeom.optim import NorMuon

# Over two ranks: 33 + 32 rows, 17 + 16, even, one row for two ranks (the second rank has none);
# pieces that begin and end within a shard, experts, and matrices whose rows lie apart.
SHAPES = {
    "uneven": (65, 20),
    "wide": (33, 48),
    "even": (16, 12),
    "one_row": (1, 16),
    "qkv": (30, 12),
    "experts": (3, 10, 8),
    "turned": (14, 22),
    "by_head": (24, 10),
}
VIEWS = {
    "qkv": View(split={"q": 14, "k": 8, "v": 8}),
    "experts": View(experts=True, split={"gate": 6, "up": 4}),
    "turned": View(transposed=True),
    "by_head": View(split={"q": 2, "k": 1}, repeats=8),
}
STAGES = ("gradient", "momentum", "second_moment", "ns_input", "orthogonalized", "update")
STEPS = 4


class Bag(nn.Module):
    """Matrices whose gradients are the ones given to ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        for name, shape in SHAPES.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator) / 4))

    def forward(self, gradients: dict[str, Tensor]) -> Tensor:
        return torch.stack([(getattr(self, n) * g).sum() for n, g in gradients.items()]).sum()


def gradients_at(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Copying(torch.optim.Optimizer):
    """Gradient descent in an operation that tells nothing: read by difference."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.copy_(p - self.param_groups[0]["lr"] * p.grad)


def build(model: nn.Module, name: str) -> Any:
    if isinstance(model, DistributedDataParallel) and name == "normuon":
        replicas = model.process_group
        return NorMuon(model.parameters(), lr=0.01, weight_decay=0.1, replicas=replicas)
    if name == "copying":
        return Copying(model.parameters(), lr=0.01)
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return NorMuon(model.parameters(), lr=0.01, weight_decay=0.1)


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(gradients_at(step)).backward()
        optimizer.step()


def whole(model: nn.Module) -> dict[str, list[float]]:
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).flatten().tolist()
        for name, p in model.named_parameters()
    }


def go(plan: dict[str, Any], folder: Path, rank: int, model: nn.Module) -> dict[str, Any]:
    optimizer = build(model, plan["optimizer"])
    seen: dict[str, Any] = {}
    try:
        recorder = watch(
            model,
            optimizer,
            folder / "trace",
            every=1,
            spectra_every=plan.get("spectra_every", 1),
            updates_every=plan.get("spectra_every", 1),
            budget=None,
            stages=tuple(plan.get("stages", STAGES)),
            views=VIEWS,
            layers=["uneven"] if plan.get("other_layers") == rank else None,
        )
    except Exception as error:  # noqa: BLE001 -- which error is what the test asks for
        return {"error": type(error).__name__, "message": str(error)}
    broken = plan.get("broken")
    if broken == rank:
        calls = iter(range(1000))

        def fail(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 5:
                if plan.get("killed"):
                    os._exit(9)
                raise RuntimeError("broken on purpose")
            return measured(*args, **kwargs)

        measured = optgeom.hooks.gathering.read_shard
        optgeom.hooks.gathering.read_shard = fail
    if plan.get("broken_reading") == rank:

        def raises(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("broken on purpose")

        optgeom.hooks.capture.Reading = raises
    started = time.monotonic()
    train(model, optimizer, range(STEPS))
    seen["seconds"] = time.monotonic() - started
    seen["failure"] = None if recorder.failure is None else str(recorder.failure)
    recorder.close()
    return seen | {"weights": whole(getattr(model, "module", model))}


def main(folder: Path, rank: int, world: int) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    store = dist.FileStore(str(folder / "store"), world)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    shape = tuple(plan.get("mesh", [world]))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    model = DistributedDataParallel(Bag()) if "ddp" in plan else fully_shard(Bag(), mesh=mesh)
    seen = go(plan, folder, rank, model)
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
