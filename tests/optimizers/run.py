"""A run of one optimizer: watched or not, in float32 or, as a twin, in float64."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import optgeom
from tests.optimizers.case import LR, Case, Moment
from tests.optimizers.loops import Bag, fused_backward


@dataclass
class Run:
    """What a run went through, and what it left.

    Attributes:
        weights: before the first step and after every step, one per matrix.
        rates: per step and matrix, the divisor of the update that the settings ask for.
        decays: per step and matrix, what the documentation promises.
        left: gradients, state and random state at the end.
        failure: of the capture.
    """

    weights: list[list[Tensor]] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    decays: list[list[float]] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    failure: str = ""


class SameDraws(TorchDispatchMode):
    """Random float64 numbers are those that a float32 run draws, so that a twin shares them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        first = next((arg for arg in args if isinstance(arg, Tensor)), None)
        wide = kwargs.get("dtype", None if first is None else first.dtype) == torch.float64
        if wide and name in ("rand", "randn", "rand_like", "randn_like", "randint_like"):
            return func(*args, **{**kwargs, "dtype": torch.float32}).double()
        if wide and first is not None and name in ("normal_", "uniform_", "bernoulli_"):
            return first.copy_(func(first.float(), *args[1:], **kwargs))
        if wide and first is not None and name in ("bernoulli", "normal"):
            narrow = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
            return func(*narrow, **kwargs).double()
        return func(*args, **kwargs)


def run(case: Case, dtype: torch.dtype, out: Path | None = None) -> Run:
    """Step a model of that dtype; watched into a trace, if `out` is given."""
    with _group_of_one() if case.in_group else nullcontext():
        return _run(case, dtype, out)


@contextmanager
def _group_of_one() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(f"{folder}/store", 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


def _run(case: Case, dtype: torch.dtype, out: Path | None) -> Run:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 -- the packages draw from it
    random.seed(0)
    model = Bag(dtype, case.shapes)
    optimizer = case.build(model)
    if "ScheduleFree" in type(optimizer).__name__ and hasattr(optimizer, "train"):
        optimizer.train()  # they step in this mode only
    named = torch.optim.SGD(model.parameters(), lr=LR) if case.stand_in else optimizer
    recorder = None
    if out is not None:
        recorder = optgeom.watch(model, named, out, every=1, updates_every=1, budget=None)
    found = Run([_weights(model)])
    for step in range(case.steps):
        before = _said(named, model)
        if recorder is not None and (case.stand_in or case.loop is fused_backward):
            with recorder.applying():
                case.loop(model, optimizer, step)
        else:
            case.loop(model, optimizer, step)
        found.weights.append(_weights(model))
        after = _said(named, model)
        moments = [
            Moment(*b, *a, optimizer, p)
            for b, a, p in zip(before, after, model.parameters(), strict=True)
        ]
        found.rates.append([moment.lr for moment in moments])
        found.decays.append([case.decay.factor(moment) for moment in moments])
    if recorder is not None:
        recorder.close()
        found.failure = str(recorder.failure or "")
    states = _states(optimizer)
    found.left = [
        [p.grad for p in model.parameters()],
        [dict(states.get(p, {})) for p in model.parameters()],
        [torch.get_rng_state(), repr(np.random.get_state()), repr(random.getstate())],  # noqa: NPY002
    ]
    return found


def _weights(model: Bag) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _states(optimizer: Any) -> Mapping[Any, Any]:
    states = getattr(optimizer, "state", None)
    return states if isinstance(states, Mapping) else {}


def _said(optimizer: Any, model: Bag) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For each parameter its group's settings and the numbers of its state, as they are now."""
    states, found = _states(optimizer), []
    for p in model.parameters():
        group = next(g for g in optimizer.param_groups if any(p is q for q in g["params"]))
        state = states.get(p, {})
        found.append((_numbers(group), _numbers(state) if isinstance(state, Mapping) else {}))
    return found


def _numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.item() if isinstance(value, Tensor) else value
        for name, value in settings.items()
        if not isinstance(value, Tensor) or value.numel() == 1
    }
