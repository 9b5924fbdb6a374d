"""One rank of a case of the distributed benchmark: JSON arguments in, one line of JSON out.

Run by sharded.py as ``python sharded_case.py ARGUMENTS FOLDER RANK WORLD``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timing import NS_DTYPE
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from optgeom.optim import Muon, NorMuon, orthogonalize
from optgeom.optim.families import NorMuonSettings
from optgeom.optim.momentum import accumulate_
from optgeom.optim.normuon import neuron_sums_, normalize_neurons_


def _of_width(width: int, blocks: int) -> list[tuple[int, int]]:
    block = [(width, width)] * 4 + [(4 * width, width), (width, 4 * width)]
    return block * blocks


SHAPES: Mapping[str, list[tuple[int, int]]] = {
    "demo": _of_width(128, 4),
    "768": _of_width(768, 4),
}
"""q, k, v, o, up and down of the demo's four blocks, and of four of GPT-2 small's twelve."""

LR, DECAY = 1e-3, 0.1

TRAVELS: Mapping[str, Any] = {"ns_dtype": NS_DTYPE, "comm_dtype": "bfloat16"}
"""Two bytes a weight on the wire, whatever the iteration is in."""


class Naive(torch.optim.Optimizer):
    """NorMuon, every rank gathering and orthogonalizing every matrix, one after another."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.settings = NorMuonSettings(weight_decay=DECAY, **TRAVELS)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take one step; every rank computes all of it and keeps its rows."""
        settings = self.settings
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
                state["second_moment"] = torch.zeros(p.shape[0], 1, device=p.device)
            momentum, second = state["momentum"], state["second_moment"]
            accumulate_(momentum.to_local(), p.grad.to_local(), settings=settings)
            whole = momentum.to(torch.bfloat16).full_tensor()
            update = orthogonalize(whole, dtype=NS_DTYPE).float()
            sums = neuron_sums_(update, second, settings=settings)
            normalize_neurons_(update, sums, second, settings=settings, shape=tuple(p.shape))
            p.to_local().mul_(1 - LR * DECAY).add_(_rows(update, p), alpha=-LR)


def _adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, foreach=True)


WAYS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "muon": lambda params: Muon(params, LR, **TRAVELS),
    "normuon": lambda params: NorMuon(params, LR, **TRAVELS),
    "normuon, naive": Naive,
    "adamw": _adamw,
}


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _rows(whole: Tensor, like: Any) -> Tensor:
    mesh = like.device_mesh
    spread = DTensor.from_local(whole, mesh, [Replicate()], run_check=False)
    return spread.redistribute(mesh, like.placements).to_local()


@contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes that leave this rank in collectives, as they are called."""
    found = [0]
    real = {name: getattr(dist, name) for name in ("all_to_all_single", "all_reduce")}
    gather = DTensor.full_tensor

    def exchange(got: Tensor, sent: Tensor, into: Any, outof: Any, **kwargs: Any) -> Any:
        kept = outof[dist.get_rank(kwargs["group"])]
        found[0] += sent.element_size() * (sum(outof) - kept)
        return real["all_to_all_single"](got, sent, into, outof, **kwargs)

    def reduce(tensor: Tensor, **kwargs: Any) -> Any:
        found[0] += tensor.nbytes
        return real["all_reduce"](tensor, **kwargs)

    def full(tensor: DTensor, **kwargs: Any) -> Tensor:
        found[0] += _local(tensor).nbytes * (tensor.device_mesh.size() - 1)
        return gather(tensor, **kwargs)

    dist.all_to_all_single, dist.all_reduce = exchange, reduce
    DTensor.full_tensor = full  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for name, function in real.items():
            setattr(dist, name, function)
        DTensor.full_tensor = gather  # type: ignore[method-assign]


def _peak_beyond(step: Callable[[], object], device: str) -> int:
    """Bytes of memory that a step needs beside what is there."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) << 10


def measure(shapes: str, rounds: int, device: str, rank: int, world: int) -> dict[str, Any]:
    """Interleave one step each way, so that a slower minute is everyone's."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    mesh = init_device_mesh(device, (world,))
    generator = torch.Generator().manual_seed(0)
    optimizers = {}
    for way, make in WAYS.items():
        params = []
        for shape in SHAPES[shapes]:
            weights, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
            p = nn.Parameter(distribute_tensor(weights.to(device), mesh, [Shard(0)]))
            p.grad = distribute_tensor(gradient.to(device), mesh, [Shard(0)])
            params.append(p)
        optimizers[way] = make(params)
    found: dict[str, Any] = {way: {"seconds": []} for way in WAYS}
    for i in range(rounds + 3):
        for way, optimizer in optimizers.items():
            dist.barrier()
            started = time.perf_counter()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 3:
                found[way]["seconds"].append(time.perf_counter() - started)
    for way, optimizer in optimizers.items():
        with counted() as count:
            optimizer.step()
        found[way]["bytes"] = count[0]
        found[way]["extra"] = _peak_beyond(optimizer.step, device)
        found[way]["state"] = sum(
            _local(value).numel()
            for state in optimizer.state.values()
            for name, value in state.items()
            if name != "step"
        )
    found["weights"] = sum(rows * cols for rows, cols in SHAPES[shapes])
    return found


def main(arguments: str, folder: str, rank: int, world: int) -> None:
    """Join the others, measure, print."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given = json.loads(arguments)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    limit = timedelta(seconds=120)
    backend = "nccl" if given["device"] == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    print(json.dumps(measure(rank=rank, world=world, **given)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
