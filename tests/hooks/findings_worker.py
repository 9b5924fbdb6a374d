"""One of two ranks that are told of findings: FOLDER RANK WORLD."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import optgeom
from optgeom.hooks import findings
from tests.hooks.test_findings import Linear, Muon

STEPS = 60


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    findings.SHARE = 1e9
    model = Linear()
    wrapped = DistributedDataParallel(model)
    optimizer = Muon(wrapped.parameters(), lr=0.05)
    told: list[tuple[int, str]] = []
    steps = 0

    def tell(finding: Any) -> None:
        told.append((steps, finding.rule))

    rec = optgeom.watch(wrapped, optimizer, folder / "run", every=2, budget=None, on_finding=tell)
    for steps in range(STEPS):
        generator = torch.Generator().manual_seed(steps)
        x = torch.randn(64, 16, generator=generator) * torch.logspace(0, -3, 16)
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()
        time.sleep(0.05)
    during = list(told)
    rec.close()
    dist.destroy_process_group()
    print(json.dumps({"during": during}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
