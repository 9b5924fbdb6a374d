"""One rank of the memory test, started as ``python memory_worker.py FOLDER RANK WORLD``.

Writes to FOLDER by how many bytes its largest resident memory is beyond that of an uncaptured step,
where norms are captured, and where spectra are.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from optgeom.hooks import watch

SIDE, MATRICES = 1024, 16
NEVER = 1_000_000


def _shortly() -> None:
    time.sleep(0.5)


def peak_of(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    after: Callable[[], object] = lambda: None,
) -> int:
    """Bytes of the largest resident memory during an optimizer's step and what comes after it."""
    generator = torch.Generator().manual_seed(step)
    model(torch.randn(4, SIDE, generator=generator)).square().mean().backward()
    Path("/proc/self/clear_refs").write_text("5")
    optimizer.step()
    after()
    optimizer.zero_grad()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(MATRICES)))
    mesh = init_device_mesh("cpu", (world,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(fully_shard(model, mesh=mesh).parameters(), foreach=False)
    plain = max([peak_of(step, model, optimizer) for step in range(3)][1:])
    extra = {}
    for name, every in (("norms", NEVER), ("spectra", 1)):
        with watch(
            model,
            optimizer,
            folder / name,
            every=1,
            spectra_every=every,
            updates_every=0,
            budget=None,
        ) as recorder:
            # the first capture takes spectra in any case: where norms are measured, they are done
            # before the next one, and where spectra are, those of one capture wait at the next
            waits = (recorder.flush, _shortly, recorder.flush)[every != NEVER :]
            peaks = [peak_of(step, model, optimizer, wait) for step, wait in enumerate(waits)]
        extra[name] = peaks[-1] - plain
    (folder / f"rank{rank}.json").write_text(json.dumps(extra))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
