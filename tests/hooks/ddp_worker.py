"""One rank of plain DDP, watched and not: FOLDER RANK WORLD."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import optgeom
from optgeom.sinks import Point

STEPS = 8


class Kept:
    """A sink that keeps what it is sent."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def open(self, run: str) -> None:
        pass

    def send(self, points: Sequence[Point]) -> None:
        self.points += points

    def close(self) -> None:
        pass


def train(folder: Path | None, rank: int, world: int) -> tuple[list[float], list[Point]]:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("up", nn.Linear(8, 12, bias=False))
    model.add_module("down", nn.Linear(12, 8, bias=False))
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    kept, rec = Kept(), None
    if folder is not None:
        rec = optgeom.watch(wrapped, optimizer, folder / "run", every=2, budget=None, also=[kept])
    for step in range(STEPS):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
        x = x[rank * 8 // world : (rank + 1) * 8 // world]
        optimizer.zero_grad()
        (wrapped(x) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()
    if rec is not None:
        rec.close()
    return [p.double().sum().item() for p in model.parameters()], kept.points


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    plain, _ = train(None, rank, world)
    watched, sent = train(folder, rank, world)
    dist.destroy_process_group()
    print(json.dumps({"plain": plain, "watched": watched, "sent": sent}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
