"""One rank of the distributed tests, started as ``python fsdp_worker.py FOLDER RANK WORLD``.

Writes to FOLDER what each optimizer made of parameters that are sharded (FSDP2), sharded and
replicated (HSDP), or replicated (as DDP leaves them), gathered, and what it sent for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from optgeom.optim import Muon, NorMuon

# Uneven and empty shards on 2, 3 and 4 ranks, tall, wide and square ones, one row, two of each
# shape that travels together, a stack, and what is no matrix.
SHAPES = {
    "uneven": (65, 40),
    "uneven_too": (65, 40),
    "uneven_also": (65, 40),
    "wide": (40, 65),
    "square": (24, 24),
    "one_row": (1, 16),
    "two_rows": (2, 7),
    "two_rows_too": (2, 7),
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
    "float32": (NorMuon, {"ns_dtype": "float32"}),
    "float32 in bfloat16": (NorMuon, {"ns_dtype": "float32", "comm_dtype": "bfloat16"}),
}
STEPS = 4
MANY = 100


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


def build(model: nn.Module, case: str, **more: Any) -> Any:
    cls, settings = CASES[case]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": rest, "algorithm": "adamw", "lr": 0.01}]
    return cls(groups, lr=0.02, weight_decay=0.1, **settings, **more)


Change = Callable[[int, nn.Module], None]


def train(
    model: nn.Module, optimizer: Any, steps: range, change: Change = lambda step, model: None
) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(gradients_at(step)).backward()
        change(step, model)
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def outcome(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        "weights": {name: whole(p) for name, p in model.named_parameters()},
        "state": {
            name: {key: whole(value) for key, value in optimizer.state[p].items()}
            for name, p in model.named_parameters()
        },
    }


def single(case: str, change: Change = lambda step, model: None) -> dict[str, Any]:
    """The same run in one process, nothing sharded."""
    model = Bag()
    optimizer = build(model, case)
    train(model, optimizer, range(STEPS), change)
    return outcome(model, optimizer)


def sharded(case: str, world: int) -> dict[str, Any]:
    """FSDP2, a checkpoint in between, and on from it in another model."""
    mesh = init_device_mesh("cpu", (world,))
    model = fully_shard(Bag(), mesh=mesh)
    optimizer = build(model, case)
    train(model, optimizer, range(STEPS - 1))
    middle = deepcopy(get_optimizer_state_dict(model, optimizer))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: list[tuple[str, tuple[int, ...]]] = []
    optimizer.stage_observer = lambda p, stage, x: seen.append((stage, tuple(x.shape)))
    with recorded() as calls:
        train(model, optimizer, range(STEPS - 1, STEPS))
    found = outcome(model, optimizer) | {"seen": seen, "calls": calls}
    found["local"] = {name: tuple(p.to_local().shape) for name, p in model.named_parameters()}
    found["held"] = {
        name: sum(
            (v.to_local() if isinstance(v, DTensor) else v).numel()
            for key, v in optimizer.state[p].items()
            if key != "step"
        )
        for name, p in model.named_parameters()
    }

    resumed = fully_shard(Bag(), mesh=mesh)
    again = build(resumed, case)
    with torch.no_grad():
        for name, p in resumed.named_parameters():
            p.copy_(weights[name])
    set_optimizer_state_dict(resumed, again, middle)
    train(resumed, again, range(STEPS - 1, STEPS))
    return found | {"resumed": outcome(resumed, again)}


def hybrid(case: str, world: int) -> dict[str, Any]:
    """HSDP, two replicas; this rank's own part after many steps, and the whole after a few."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    model = fully_shard(Bag(), mesh=mesh)
    optimizer = build(model, case)
    train(model, optimizer, range(STEPS))
    found = outcome(model, optimizer)
    train(model, optimizer, range(STEPS, MANY))
    own = {name: p.to_local().detach().clone() for name, p in model.named_parameters()}
    return found | {"own": own}


def replicated(case: str, world: int) -> dict[str, Any]:
    """DDP: plain parameters, equal on all ranks, and the work is dealt over them."""
    model = Bag()
    wrapped = DistributedDataParallel(model)
    optimizer = build(model, case, replicas=wrapped.process_group)
    train(wrapped, optimizer, range(STEPS - 1))
    with recorded() as calls:
        train(wrapped, optimizer, range(STEPS - 1, STEPS))
    found = outcome(model, optimizer) | {"calls": calls}
    train(wrapped, optimizer, range(STEPS, MANY))
    return found | {"own": {name: p.detach().clone() for name, p in model.named_parameters()}}


def even(world: int) -> dict[str, Any]:
    """What a step sends of matrices whose rows the number of ranks divides."""
    shapes = [(24, 36)] * 6 + [(48, 24)] * 3 + [(24, 24)] * 4
    mesh = init_device_mesh("cpu", (world,))
    params = []
    for shape in shapes:
        p = nn.Parameter(distribute_tensor(torch.randn(shape), mesh, [Shard(0)]))
        p.grad = distribute_tensor(torch.randn(shape), mesh, [Shard(0)])
        params.append(p)
    optimizer = NorMuon(params, lr=0.02)
    optimizer.step()
    with recorded() as calls:
        optimizer.step()
    return {"shapes": shapes, "calls": calls}


def odd_one_out(world: int) -> float:
    """How far sharded matrices come out from one process's where rank 0 has one more of its own."""
    mesh, shapes = init_device_mesh("cpu", (world,)), [(8, 4), (6, 10), (4, 6)]
    ours, alone = [], []
    for shape in shapes:
        generator = torch.Generator().manual_seed(sum(shape))
        weights, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
        p, q = (
            nn.Parameter(distribute_tensor(weights, mesh, [Shard(0)])),
            nn.Parameter(weights.clone()),
        )
        p.grad, q.grad = distribute_tensor(gradient, mesh, [Shard(0)]), gradient
        ours.append(p)
        alone.append(q)
    more = []
    if dist.get_rank() == 0:
        own = nn.Parameter(torch.randn(3, 3))
        own.grad = torch.randn(3, 3)
        more = [own]
    NorMuon([ours[0], *more, *ours[1:]], lr=0.1).step()
    NorMuon(alone, lr=0.1).step()
    return max(float((whole(p) - q).abs().max()) for p, q in zip(ours, alone, strict=True))


def refused() -> dict[str, str]:
    """What is said to placements that would yield one shard's number."""
    line = init_device_mesh("cpu", (4,))
    square = init_device_mesh("cpu", (2, 2))
    weights = torch.randn(8, 12)
    placed = {
        "columns": (line, [Shard(1)]),
        "rows and columns": (square, [Shard(0), Shard(1)]),
        "rows twice": (square, [Shard(0), Shard(0)]),
        "copies twice": (square, [Replicate(), Replicate()]),
        "downwards": (DeviceMesh("cpu", [3, 2, 1, 0]), [Shard(0)]),
    }
    said = {}
    for name, (mesh, placements) in placed.items():
        p = nn.Parameter(distribute_tensor(weights, mesh, placements))
        try:
            NorMuon([p], lr=0.02)
        except ValueError as error:
            said[name] = str(error)
        NorMuon([{"params": [p], "algorithm": "adamw", "lr": 0.1}], lr=0.02)
    p = nn.Parameter(distribute_tensor(weights, line, [Replicate()]))
    p.grad = DTensor.from_local(weights.clone(), line, [Partial()])
    try:
        NorMuon([p], lr=0.02).step()
    except ValueError as error:
        said["unsummed gradient"] = str(error)
    return said


def missing(everywhere: bool) -> Change:
    """From the second step on, no gradient for two of the matrices: on rank 0, or anywhere."""

    def change(step: int, model: nn.Module) -> None:
        alone = not dist.is_initialized()
        if step > 0 and (everywhere or (not alone and dist.get_rank() == 0)):
            model.uneven.grad = model.two_rows.grad = None
        elif step > 0 and alone:
            # what the others' rows say, where the first rank's are silent
            for name in ("uneven", "two_rows"):
                grad = getattr(model, name).grad
                grad[: -(-len(grad) // 2)] = 0.0

    return change


def silent(world: int, everywhere: bool) -> dict[str, Any]:
    model = fully_shard(Bag(), mesh=init_device_mesh("cpu", (world,)))
    optimizer = build(model, "paper")
    train(model, optimizer, range(STEPS), missing(everywhere))
    return outcome(model, optimizer)


@contextmanager
def recorded() -> Iterator[list[dict[str, Any]]]:
    """What is communicated and computed, in its order; bytes are those that leave the rank."""
    import optgeom.optim.matrix_optimizer as road

    calls: list[dict[str, Any]] = []
    real = {name: getattr(dist, name) for name in ("all_to_all_single", "all_reduce", "broadcast")}
    orthogonalize = road.orthogonalize

    class Waiting:
        def __init__(self, work: Any, number: int) -> None:
            self.work, self.number = work, number

        def wait(self) -> None:
            calls.append({"what": "wait", "number": self.number})
            self.work.wait()

    def launch(name: str, count: int, *args: Any, **kwargs: Any) -> Waiting:
        number = sum(call["what"] == "launch" for call in calls)
        calls.append({"what": "launch", "name": name, "number": number, "bytes": count})
        return Waiting(real[name](*args, **kwargs), number)

    def all_to_all_single(got: Tensor, sent: Tensor, into: Any, outof: Any, **kwargs: Any) -> Any:
        size = sent.element_size()
        kept = outof[dist.get_rank(kwargs["group"])]
        count = size * (sum(outof) - kept)
        return launch("all_to_all_single", count, got, sent, into, outof, **kwargs)

    def all_reduce(tensor: Tensor, **kwargs: Any) -> Any:
        return launch("all_reduce", tensor.nbytes, tensor, **kwargs)

    def broadcast(tensor: Tensor, **kwargs: Any) -> Any:
        mine = kwargs["group_src"] == dist.get_rank(kwargs["group"])
        others = dist.get_world_size(kwargs["group"]) - 1
        return launch("broadcast", mine * others * tensor.nbytes, tensor, **kwargs)

    def compute(matrices: Tensor, **kwargs: Any) -> Tensor:
        calls.append({"what": "orthogonalize", "shape": tuple(matrices.shape)})
        return orthogonalize(matrices, **kwargs)

    fakes = {"all_to_all_single": all_to_all_single, "all_reduce": all_reduce}
    for name, fake in (fakes | {"broadcast": broadcast}).items():
        setattr(dist, name, fake)
    road.orthogonalize = compute
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(dist, name, function)
        road.orthogonalize = orthogonalize


def main(folder: Path, rank: int, world: int) -> None:
    store = dist.FileStore(str(folder / "store"), world)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    results: dict[str, Any] = {
        "sharded": {case: sharded(case, world) for case in CASES},
        "replicated": {case: replicated(case, world) for case in ("paper", "muon", "larger-axis")},
        "even": even(world),
        "odd one out": odd_one_out(world),
    }
    if world == 2:
        results["silent"] = {everywhere: silent(world, everywhere) for everywhere in (False, True)}
    if world == 4:
        results["refused"] = refused()
        results["hybrid"] = {case: hybrid(case, world) for case in ("paper", "dion", "muon")}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
