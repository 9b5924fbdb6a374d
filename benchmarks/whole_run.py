"""One case of the overhead benchmark: the share of a whole run that watching takes.

Blocks of watched steps alternate with blocks of unwatched steps of the same model in one process.
While an unwatched block runs, the clock that the recorder reads stands still, so that its budget
sees the watched run alone. Run by overhead.py: JSON arguments in, one line of JSON out.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import Job, OptimizerName
from methods import spectrum
from timing import Background, Calibration, Interval, prepare

import optgeom
from optgeom.geometry.threads import use_one_thread

BLOCK = 50
"""Steps of a block: one capture at the default cadence."""


@dataclass(frozen=True, slots=True)
class Share:
    """What watching took of a run; per cents are of its unwatched time.

    Attributes:
        step_ms: of an unwatched step.
        steps: of the watched run.
        layers: that were watched.
        wall: watched minus unwatched blocks, per cent, over the pairs of blocks.
        total: the same of all blocks together.
        counted: seconds of the training thread, as recorded, and CPU seconds of the background,
            of the watched time, per cent.
        recorded: the share that the trace itself states at its end, per cent.
        clock_error: of the recorder's elapsed seconds against the watched time, per cent.
        spectra: how many were captured.
        of_affordable: their cost at bare-kernel speed over the seconds that the budget allows,
            per cent.
        mean_wait: steps between two spectra of a layer.
        longest_wait: of any layer, the start and the end of the run included.
        kernel_seconds: of the bare spectra of all layers, one thread.
        gflops: of the calibration loop.
    """

    step_ms: float
    steps: int
    layers: int
    wall: Interval
    total: float
    counted: float
    recorded: float
    clock_error: float
    spectra: int
    of_affordable: float
    mean_wait: float
    longest_wait: int
    kernel_seconds: float
    gflops: list[float]


class Clock:
    """`time.perf_counter`, but for the time in which it was stopped."""

    def __init__(self) -> None:
        self.now = time.perf_counter
        self._stopped_for = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        """Seconds."""
        now = self.now() if self._since is None else self._since
        return now - self._stopped_for

    def stop(self) -> None:
        """Stand still."""
        self._since = self.now()

    def go(self) -> None:
        """Go on where it stood."""
        if self._since is not None:
            self._stopped_for += self.now() - self._since
            self._since = None


def block(job: Job, count: int, now: Callable[[], float], *, unwatched: bool) -> float:
    """Seconds of so many steps."""
    started = now()
    for _ in range(count):
        job.backward()
        job.apply(unwatched=unwatched)
        job.zero_grad()
    return now() - started


def kernel_seconds(shapes: Sequence[tuple[int, int]]) -> list[float]:
    """CPU seconds of the bare spectrum of matrices of these shapes, on one thread; medians of 3."""
    seconds: list[float] = []

    def work() -> None:
        use_one_thread()
        known: dict[tuple[int, int], float] = {}
        for shape in shapes:
            if shape not in known:
                matrix, took = torch.randn(shape), []
                for _ in range(3):
                    started = time.thread_time()
                    spectrum(matrix)
                    took.append(time.thread_time() - started)
                known[shape] = statistics.median(took)
            seconds.append(known[shape])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return seconds


def waits(captured: Sequence[np.ndarray[Any, Any]], steps: int) -> tuple[float, int]:
    """The mean and the longest wait of a layer for its spectrum, in steps.

    Args:
        captured: for each layer, the steps at which it was captured, ascending.
        steps: of the run; the wait for the first capture and the one since the last count for
            the longest.

    >>> waits([np.array([0, 4]), np.array([2, 6])], 8)
    (4.0, 4)
    """
    between = [gap for steps_of in captured for gap in np.diff(steps_of).tolist()]
    edges = [[int(s[0]), steps - int(s[-1])] if len(s) else [steps] for s in captured]
    mean = float(np.mean(between)) if between else float("nan")
    return mean, int(max([*between, *(edge for pair in edges for edge in pair)]))


def measure(job: Job, folder: Path, *, settings: dict[str, Any], blocks: int) -> Share:
    """Train, watched and unwatched in turns.

    Args:
        job: freshly made.
        folder: of the trace.
        settings: for `optgeom.watch`; its own defaults for the rest.
        blocks: pairs of blocks; the first is left out of the times, but not of the captures.
    """
    calibration, clock = Calibration(), Clock()
    now = clock.now
    block(job, 8, now, unwatched=True)
    background = Background()
    time.perf_counter = clock
    watched: list[float] = []
    unwatched: list[float] = []
    try:
        recorder = optgeom.watch(job.model, job.watched, folder, **settings)
        for _ in range(blocks):
            clock.go()
            watched.append(block(job, BLOCK, now, unwatched=False))
            recorder.log(blocks=len(watched))
            clock.stop()
            calibration.run()
            unwatched.append(block(job, BLOCK, now, unwatched=True))
        cpu = background.seconds
        recorder.close()
    finally:
        time.perf_counter = now
    if recorder.failure is not None:
        raise RuntimeError("the capture failed") from recorder.failure
    return _share(folder, settings, watched, unwatched, cpu, calibration.gflops)


def _share(
    folder: Path,
    settings: dict[str, Any],
    watched: list[float],
    unwatched: list[float],
    cpu: float,
    gflops: list[float],
) -> Share:
    trace = optgeom.open_trace(folder)
    steps, run = BLOCK * len(watched), sum(watched)
    captured = [trace.steps(layer.name, table="spectra") for layer in trace.layers]
    kernels = kernel_seconds([(layer.shape[0], layer.shape[1]) for layer in trace.layers])
    bought = sum(len(s) * kernel for s, kernel in zip(captured, kernels, strict=True))
    budget = settings.get("budget", 0.01)
    mean_wait, longest_wait = waits(captured, steps)

    def recorded(name: str) -> list[float]:
        values: list[float] = trace.scalars(name)["value"].to_pylist()
        return values

    pairs = zip(watched[1:], unwatched[1:], strict=True)
    return Share(
        step_ms=1e3 * statistics.median(unwatched) / BLOCK,
        steps=steps,
        layers=len(trace.layers),
        wall=Interval.of([100 * (with_it / without - 1) for with_it, without in pairs]),
        total=100 * (sum(watched[1:]) / sum(unwatched[1:]) - 1),
        counted=100 * (sum(recorded("capture_seconds")) + cpu) / run,
        recorded=100 * recorded("capture_share")[-1],
        clock_error=100 * (recorded("elapsed_seconds")[-1] / run - 1),
        spectra=sum(map(len, captured)),
        of_affordable=100 * bought / (budget * run),
        mean_wait=mean_wait,
        longest_wait=longest_wait,
        kernel_seconds=sum(kernels),
        gflops=gflops,
    )


def main(size: str, optimizer: OptimizerName, settings: dict[str, Any], blocks: int) -> None:
    """Measure one case and print it."""
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        share = measure(
            Job(size, optimizer), Path(folder) / "trace", settings=settings, blocks=blocks
        )
    print(json.dumps(asdict(share)))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
