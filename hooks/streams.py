"""On a GPU: a stream for the background, and raw matrices that come to the host together.

What the training thread has to wait for is waited for at once: in a captured step the samples, and
after them what rounding held back; where raw matrices are stored, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.hooks.worker import Job


def beside(device: torch.device, job: Job) -> Job:
    """The same job, for another thread: after what the caller's stream has been given so far.

    Args:
        device: of the matrices that the job holds.
        job: leaves nothing on the device that is used later.

    Returns:
        The job itself for a CPU. For a GPU one that runs beside the training's stream, and returns
        when its own is empty, so that what the job holds may go.
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


def on_host(matrices: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Matrices as float32 arrays; those on a GPU through pinned memory, with one wait for all.

    Args:
        matrices: any shapes, float dtypes and devices.

    Returns:
        Row-major arrays; those of float32 matrices on the CPU share their memory.
    """
    found, waits = [], set()
    for matrix in matrices:
        wide = matrix.detach().to(torch.float32).contiguous()
        if wide.is_cuda:
            pinned = torch.empty(wide.shape, dtype=wide.dtype, pin_memory=True)
            wide = pinned.copy_(wide, non_blocking=True)
            waits.add(matrix.device)
        found.append(wide)
    for device in waits:
        torch.cuda.current_stream(device).synchronize()
    return [one.cpu().numpy() for one in found]
