"""Whether two ranks make one rank's update: replicated as under DDP, sharded as by FSDP2."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import current_process, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore  # type: ignore[attr-defined]

from optgeom.hooks.auditing.inputs import uneven
from optgeom.hooks.auditing.subject import (
    AuditError,
    Matrix,
    Subject,
    as_fed,
    difference,
    made,
    said,
)

How = Literal["replicated", "sharded"]

EDGE = "an empty shard"
"""What raises here alone is a limit of an optimizer, not a doubt about it."""

CASES: Mapping[str, tuple[How, tuple[int, int]]] = MappingProxyType(
    {
        # tall as a whole, wide on each of two ranks: an axis taken from the shard shows
        "replicated": ("replicated", (48, 32)),
        "sharded": ("sharded", (48, 32)),
        "uneven shards": ("sharded", (33, 16)),
        EDGE: ("sharded", (1, 16)),
    }
)
WORLD = 2
STEPS = 3
SECONDS = 30.0

SAME = 0.15
"""Relative distance of updates: sums that are added up in bfloat16 in another order move a
Newton-Schulz iteration by 0.02 to 0.05; an orthogonalization of each shard by 0.5 and more."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """What two ranks made of it.

    Attributes:
        agree: False where an update differs; True where none does and all cases ran, but for an
            empty shard; None where it could not be found out.
        cases: what became of each, in words.
    """

    agree: bool | None
    cases: Mapping[str, str]


def measure_ranks(subject: Subject) -> Ranks:
    """Run the same steps in one process and in two, forked from this one.

    Everything is bounded in time, and ends with this call. Not on platforms without fork, in a
    process that has used CUDA, or inside a distributed job.
    """
    if reason := _not_here(subject):
        return Ranks(None, {name: reason for name in CASES})
    # once here instead of in every child
    import torch.distributed.tensor  # noqa: F401

    cases: dict[str, str] = {}
    apart: dict[str, float] = {}
    with TemporaryDirectory(prefix="optgeom-audit-") as scratch:
        for name, (how, shape) in CASES.items():
            single = _run(subject, Path(scratch), "replicated", shape, world=1)
            both = _run(subject, Path(scratch), how, shape, world=WORLD)
            if isinstance(single, str) or isinstance(both, str):
                cases[name] = single if isinstance(single, str) else str(both)
                continue
            apart[name] = distance = max(
                difference(one, other)
                for rank in both
                for one, other in zip(rank, single[0], strict=True)
            )
            cases[name] = _words(distance)
    found = MappingProxyType(cases)
    if any(distance >= SAME for distance in apart.values()):
        return Ranks(False, found)
    return Ranks(True if {*CASES} - {EDGE} <= {*apart} else None, found)


def _words(distance: float) -> str:
    if distance >= SAME:
        return f"{distance:.2g} away from one rank"
    return f"the same, to {distance:.1g}" if distance else "the same"


def _not_here(subject: Subject) -> str:
    if subject.way == "closure":
        return "not tried: it wants a closure"
    if current_process().daemon:
        return "not tried: this process may have no children"
    if not hasattr(os, "fork"):
        return "not tried: this platform cannot fork"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "not tried: this process uses CUDA, which no forked rank can"
    if not dist.is_available():
        return "not tried: this torch has no distributed package"
    return "not tried: this process is a rank of another job" if dist.is_initialized() else ""


def _run(
    subject: Subject, scratch: Path, how: How, shape: tuple[int, int], *, world: int
) -> list[Matrix] | str:
    """The updates of every rank, each (steps, m, n), or why there are none."""
    folder = Path(scratch, f"{how}-{shape[0]}-{world}-{time.monotonic_ns()}")
    folder.mkdir()
    context = get_context("fork")
    processes = [
        context.Process(target=_rank, args=(subject, folder, how, shape, rank, world), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    if not _ended(processes):
        return f"hangs: no answer within {SECONDS:.0f} s"
    found = []
    for rank in range(world):
        if (raised := folder / f"{rank}.txt").exists():
            return f"raises {raised.read_text()}"
        if not (written := folder / f"{rank}.npy").exists():
            return f"a rank died with exit code {processes[rank].exitcode}"
        found.append(np.load(written, allow_pickle=False))
    return found


def _ended(processes: Sequence[BaseProcess]) -> bool:
    """Wait for all, or end them."""
    until = time.monotonic() + SECONDS
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        return not any(process.is_alive() for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    subject: Subject, folder: Path, how: How, shape: tuple[int, int], rank: int, world: int
) -> None:
    """One rank, in a process of its own."""
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _steps(subject, folder, how, shape, rank, world)
    except AuditError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    except Exception as error:  # noqa: BLE001 -- whatever it raises there is the answer
        (folder / f"{rank}.txt").write_text(said(error))
    else:
        np.save(folder / f"{rank}.npy", found, allow_pickle=False)


def _steps(
    subject: Subject, folder: Path, how: How, shape: tuple[int, int], rank: int, world: int
) -> Matrix:
    dist.init_process_group(
        "gloo",
        store=FileStore(str(folder / "store"), world),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS / 2),
    )
    dist.barrier()  # or the first to end hangs up on one that is still connecting
    rows, cols = shape
    weights = torch.zeros(rows, cols, dtype=subject.dtype)
    parameter = nn.Parameter(_placed(weights, how))
    optimizer = made(subject.factory, [parameter])
    found = []
    for step in range(STEPS):
        gradient = uneven(rows, cols, seed=20 + step)
        gradient[: rows // 2] *= 8.0  # shards are of different weight
        given = as_fed(gradient, subject.dtype, subject.way)
        parameter.grad = given if given.is_sparse else _placed(given, how)
        optimizer.step()
        moved = -_whole(parameter.detach()).double() / subject.lr
        found.append(moved.numpy())
        with torch.no_grad():
            parameter.zero_()
    dist.destroy_process_group()
    return np.stack(found)


def _placed(whole: Tensor, how: How) -> Tensor:
    if how == "replicated":
        return whole
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return distribute_tensor(whole, mesh, [Shard(0)])


def _whole(found: Tensor) -> Tensor:
    return found.full_tensor() if hasattr(found, "full_tensor") else found
