"""The raw matrices of a unit, capture by capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.analysis.units import Task, Unit
from optgeom.traces.errors import DamagedTrace, NotCaptured, OptgeomError
from optgeom.traces.store import Trace

_REQUESTS = 8

Key = tuple[str, str]
"""Layer and stage."""

Read = Callable[[int, Sequence[Key]], Mapping[Key, NDArray[np.float32]]]
"""A step, and layers and stages of it, to their raw matrices, from any thread."""


def raw_of(trace: Trace) -> Read:
    """Reads a trace; small matrices of a step share a row group, which is fetched once.

    An object store is asked for several at once: each answer takes longer to come than to read.
    """
    requests = 1 if trace.place.is_local else _REQUESTS

    def read(step: int, keys: Sequence[Key]) -> Mapping[Key, NDArray[np.float32]]:
        def one(key: Key) -> NDArray[np.float32]:
            return trace.matrix(step, *key)

        if requests == 1 or len(keys) < 2:
            return dict(zip(keys, map(one, keys), strict=True))
        with ThreadPoolExecutor(requests, "optgeom-reading") as threads:
            return dict(zip(keys, threads.map(one, keys), strict=True))

    return read


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A task with its matrices.

    Attributes:
        task: The task.
        matrices: By stage, all that measuring it needs, float32.
        before: The raw update before this one, where a cosine to it is lacking.
    """

    task: Task
    matrices: Mapping[str, Tensor]
    before: Tensor | None


def loaded(
    unit: Unit, read: Read, failures: list[str], device: str | None = None
) -> Iterator[list[Loaded]]:
    """Each capture of a unit; no matrix is read twice.

    Args:
        unit: What is to be measured.
        read: Gives the raw matrices.
        failures: Takes a sentence for each matrix that could not be read; what would be measured
            from it is left out.
        device: Where the tensors are to be; None: in memory.
    """
    held: dict[str, tuple[int, Tensor]] = {}  # the last raw update of each layer
    for tasks in unit.captures:
        step = tasks[0].step
        keys = [(task.layer.name, stage) for task in tasks for stage in task.needed]
        found = _tensors(read, step, keys, failures, device)
        missing: dict[int, list[Key]] = {}
        for task in tasks:
            name, at = task.layer.name, task.previous_step
            if at is not None and task.lacks_cosine and _held(held, name) != at:
                missing.setdefault(at, []).append((name, "update"))
        for at, wanted in missing.items():
            for (name, _), matrix in _tensors(read, at, wanted, failures, device).items():
                held[name] = (at, matrix)
        capture = []
        for task in tasks:
            name = task.layer.name
            matrices = {
                stage: found[name, stage] for stage in task.needed if (name, stage) in found
            }
            at = _held(held, name)
            before = held[name][1] if at is not None and at == task.previous_step else None
            readable = {
                stage: record
                for stage, record in task.pending.items()
                if task.needs(stage) <= matrices.keys()
                and not (stage == "update" and task.lacks_cosine and before is None)
            }
            if readable:
                task = replace(task, pending=readable)
                capture.append(Loaded(task, matrices, before if task.lacks_cosine else None))
            if "update" in matrices:
                held[name] = (step, matrices["update"])
        yield capture


def _held(held: Mapping[str, tuple[int, Tensor]], name: str) -> int | None:
    return held[name][0] if name in held else None


def _tensors(
    read: Read, step: int, keys: Sequence[Key], failures: list[str], device: str | None
) -> dict[Key, Tensor]:
    try:
        matrices = dict(read(step, keys))
    except (DamagedTrace, NotCaptured):
        matrices = {}
        for key in keys:  # one by one: which of them is it?
            try:
                matrices |= read(step, [key])
            except (DamagedTrace, NotCaptured) as error:
                failures.append(str(error))
    except OptgeomError as error:  # a store that does not answer, say
        matrices = {}
        failures.append(str(error))
    return {key: _tensor(matrix, device) for key, matrix in matrices.items()}


def _tensor(matrix: NDArray[np.float32], device: str | None) -> Tensor:
    tensor = torch.from_numpy(matrix)
    return tensor if device is None else tensor.to(device)
