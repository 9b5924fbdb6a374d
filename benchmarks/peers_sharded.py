"""What the peers do on a job whose parameters are sharded: FSDP2, two ranks, gloo.

``.venv/peers/bin/python benchmarks/peers_sharded.py``; ``python benchmarks/peers.py`` makes that
environment. Each is asked for what it gives of a plain model; what it raises, or gives, is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timing import json_option, machine, write_json
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import optgeom

LIMIT = 120
"""Seconds for one of them."""

Peer = Callable[[nn.Module, torch.optim.Optimizer, Path], object]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(dist.get_rank())
    model(torch.randn(64, 48)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def by_wandb(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> object:
    """Histograms of every parameter and gradient."""
    wandb: Any = import_module("wandb")
    settings = wandb.Settings(silent=True)
    run = wandb.init(mode="offline", dir=folder, project="x", settings=settings)
    run.watch(model, log="all", log_freq=1)
    for _ in range(2):
        _step(model, optimizer)
        run.log({"step": 1})
    return "ran"


def by_tensorboard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> object:
    """A histogram of one parameter."""
    writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
    writer.add_histogram("weight", next(model.parameters()), 0)
    return "ran"


def by_weightwatcher(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> object:
    """The spectra of all weights."""
    details = import_module("weightwatcher").WeightWatcher(model=model).analyze()
    return f"ran, {len(details)} layers"


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> object:
    """`p.norm().item()`, beside the norm of the whole weight."""
    weight: Any = next(model.parameters())
    return f"{weight.norm().item():.2f} where {weight.full_tensor().norm().item():.2f} is true"


def by_optgeom(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> object:
    """The norms of all rows of a weight, from the trace, beside those of the whole weight."""
    parameters: list[Any] = list(model.parameters())
    wholes = [one.full_tensor().detach().clone() for one in parameters]
    with optgeom.watch(
        model, optimizer, folder / "run", stages=("weight",), every=1, budget=None
    ) as rec:
        _step(model, optimizer)
    if rec.failure is not None:
        raise rec.failure
    dist.barrier()
    trace = optgeom.open_trace(folder / "run")
    worst = 0.0
    for layer, whole in zip(trace.layers, wholes, strict=True):
        found = torch.from_numpy(trace.neuron_norms(0, layer.name, "weight"))
        worst = max(worst, float(((found - whole.norm(dim=1)) / whole.norm(dim=1)).abs().max()))
    return f"largest error of a row's norm {worst:.0e}"


PEERS: dict[str, Peer] = {
    'wandb.watch(log="all")': by_wandb,
    "TensorBoard add_histogram": by_tensorboard,
    "WeightWatcher": by_weightwatcher,
    "`p.norm().item()`": by_hand,
    "optgeom.watch": by_optgeom,
}


def rank(number: int, world: int, name: str, folder: str) -> None:
    """One rank: a sharded model, one peer, a line of what came of it."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=world
    )
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96, bias=False), nn.Linear(96, 48, bias=False))
    for part in (*model, model):
        fully_shard(part, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    shared = Path(folder) / "shared"
    own = shared if name == "optgeom.watch" else shared / str(number)
    own.mkdir(parents=True, exist_ok=True)
    try:
        said = str(PEERS[name](model, optimizer, own))
    except Exception as error:  # noqa: BLE001 -- what it raises is what is asked
        said = f"raises {type(error).__name__}: {str(error).splitlines()[0][:90]}"
    if not number:
        (Path(folder) / "said").write_text(said)
    sys.stdout.flush()
    os._exit(0)  # a rank that raised before its peer leaves a collective open


def main() -> None:
    """Print one row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    json_option(parser)
    given = parser.parse_args()
    rows = []
    print(machine(), flush=True)
    print("\n| on two ranks of FSDP2 | |\n|---|---|", flush=True)
    for name in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            context = mp.start_processes(
                rank, (2, name, folder), 2, join=False, start_method="spawn"
            )
            context.join(timeout=LIMIT)
            for process in context.processes:
                process.kill()
            file = Path(folder) / "said"
            said = file.read_text() if file.exists() else f"failed: no answer in {LIMIT} s"
        print(f"| {name} | {said} |", flush=True)
        rows.append({"on two ranks of FSDP2": name, "said": said})
    write_json(given.json, {"said": rows})


if __name__ == "__main__":
    main()
