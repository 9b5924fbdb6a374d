"""One case of the memory benchmark: the peak of a captured step above an unwatched one's.

Run by memory.py in a process of its own: JSON arguments in, one line of JSON out.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from methods import NEVER
from timing import Background, prepare
from torch import Tensor, nn

import optgeom

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD, for-loop": lambda those: torch.optim.SGD(those, lr=1e-3, momentum=0.9, foreach=False),
    "AdamW, for-loop": lambda those: torch.optim.AdamW(those, lr=1e-3, foreach=False),
    "AdamW, foreach": lambda those: torch.optim.AdamW(those, lr=1e-3, foreach=True),
}

METHODS = ("norms", "norms, spectra", "norms, raw matrices", "snapshot")
"""What a captured step does; the snapshot copies the weights and takes their differences."""


def model_of(millions: int, *, side: int) -> nn.Sequential:
    """A chain of equal matrices, as many as come closest to so many million parameters."""
    torch.manual_seed(0)
    count = max(1, round(millions * 1e6 / side**2))
    return nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(count)))


def peak_bytes() -> int:
    """The largest resident memory since the peak was last forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise OSError("no VmHWM in /proc/self/status: this needs Linux")


def forget_peak() -> None:
    """Let the peak begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


class Training:
    """A chain in training on a batch so small that gradients and states are all there is."""

    def __init__(self, millions: int, optimizer: str, *, side: int) -> None:
        self.model = model_of(millions, side=side)
        self.optimizer = OPTIMIZERS[optimizer](list(self.model.parameters()))
        self._batch = torch.randn(4, side)

    def step(self) -> None:
        """One training step."""
        loss: Tensor = self.model(self._batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def snapshot_step(self) -> None:
        """One step by the snapshot method: all weights copied before, a difference at a time."""
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.step()
        for parameter, copy in zip(self.model.parameters(), before, strict=True):
            torch.linalg.vector_norm(parameter.detach() - copy, dim=1)


def peak_of(step: Callable[[], object]) -> int:
    """The peak of the resident memory while a step runs."""
    gc.collect()
    forget_peak()
    step()
    return peak_bytes()


def watched_peak(training: Training, method: str, folder: Path) -> int:
    """The peak over a captured step and what follows it in the background."""
    every = 4
    background = Background()
    recorder = optgeom.watch(
        training.model,
        training.optimizer,
        folder,
        every=every,
        spectra_every=every if "spectra" in method else NEVER,
        updates_every=every if "raw" in method else 0,
        budget=None,
    )
    for _ in range(every):  # the first capture loads code and takes spectra in any case
        training.step()
        background.settle(at_most=600.0)

    def captured() -> None:
        training.step()
        recorder.close()

    peak = peak_of(captured)
    if recorder.failure is not None:
        raise RuntimeError("the capture failed") from recorder.failure
    trace = optgeom.open_trace(folder)
    what = "spectra" if "spectra" in method else "updates" if "raw" in method else "metrics"
    steps = [trace.steps(layer.name, table=what).tolist() for layer in trace.layers]
    if any(every not in those for those in steps):
        raise RuntimeError(f"layers are missing from {what} at step {every}")
    return peak


def measure(millions: int, optimizer: str, method: str, side: int) -> dict[str, float]:
    """One case: peaks in MiB."""
    prepare()
    optgeom.watch, optgeom.open_trace  # noqa: B018 -- loads their code, which is no step's memory
    training = Training(millions, optimizer, side=side)
    for _ in range(2):
        training.step()
    plain = min(peak_of(training.step) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        if method == "snapshot":
            peak = peak_of(training.snapshot_step)
        else:
            peak = watched_peak(training, method, Path(folder) / "trace")
    return {"plain": plain / 2**20, "extra": (peak - plain) / 2**20}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
