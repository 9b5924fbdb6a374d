"""On a GPU: a stream for the background, and raw matrices that come to the host together.

What the training thread has to wait for is waited for at once: in a captured step the samples, and
after them what rounding held back of 16-bit weights; where raw matrices are stored, 64 MiB of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.hooks.worker import Job

AT_ONCE = 16 << 20
"""Entries of raw matrices that come to the host with one wait."""


def on_own_stream(device: torch.device, job: Job) -> Job:
    """The same job, for another thread: after what the caller's stream has been given so far.

    Args:
        device: of the matrices that the job holds.
        job: leaves nothing on the device that is used later.

    Returns:
        The job itself for a CPU. For a GPU one that runs on a second stream, which all recorders
        share, and returns when that is empty, so that what the job holds may go.
    """
    if device.type != "cuda":
        return job
    given = torch.cuda.current_stream(device).record_event()

    def run() -> None:
        stream = _stream(device)
        with torch.cuda.stream(stream):
            stream.wait_event(given)
            try:
                job()
            finally:
                stream.synchronize()

    return run


@lru_cache(maxsize=64)
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_host(matrices: Sequence[Tensor]) -> Iterator[NDArray[np.float32]]:
    """Matrices as float32 arrays, in their order, each when it is asked for.

    Those on a GPU come through pinned memory, some of them with one wait; the memory is given back
    before the next ones are copied.

    Args:
        matrices: any shapes, float dtypes and devices.

    Yields:
        Row-major arrays; those of float32 matrices on the CPU share their memory.
    """
    for group in _groups(matrices):
        wide = [matrix.detach().to(torch.float32).contiguous() for matrix in group]
        if not group[0].is_cuda:
            yield from (one.cpu().numpy() for one in wide)
            continue
        pinned = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in wide]
        for one, source in zip(pinned, wide, strict=True):
            one.copy_(source, non_blocking=True)
        torch.cuda.current_stream(group[0].device).synchronize()
        found = [one.numpy().copy() for one in pinned]
        del pinned, wide
        yield from found


def _groups(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """One after another, and of one GPU as many as are copied at once."""
    group: list[Tensor] = []
    for matrix in matrices:
        alike = bool(group) and matrix.is_cuda and matrix.device == group[0].device
        if group and not (alike and sum(one.numel() for one in group) < AT_ONCE):
            yield group
            group = []
        group.append(matrix)
    if group:
        yield group
