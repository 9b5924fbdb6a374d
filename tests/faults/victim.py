"""A training run that is captured, and what became of its trace.

The run is the same each time to the last bit, so that whatever a trace says of it is compared with
what an undisturbed run says. It is run in forked children, which cost no import of torch.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import optgeom
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import OPEN_TABLES

STEPS = 120
UPDATES_EVERY = 4
FLUSH_EVERY = 8
"""Steps between the flushes that the run waits for."""

_KEY = ("step", "layer", "stage")


@dataclass(frozen=True, slots=True)
class Reference:
    """What an undisturbed run recorded.

    Attributes:
        loss: of the last step.
        norms: of each step and layer, (m,) float32.
        spectra: of each step and layer, (r,) float64.
        matrices: of each captured step and layer, (m, n) float32.
        losses: of each step.
    """

    loss: float
    norms: dict[tuple[int, str], np.ndarray[Any, Any]]
    spectra: dict[tuple[int, str], np.ndarray[Any, Any]]
    matrices: dict[tuple[int, str], np.ndarray[Any, Any]]
    losses: dict[int, float]


def train(
    out: Path,
    *,
    start_step: int | None = None,
    told: int = -1,
    steps: int = STEPS,
    flushing: bool = True,
    held: float = 0.0,
    **watching: Any,
) -> float:
    """Train with a capture of every step; returns the last loss.

    Args:
        out: the trace.
        start_step: as for watch; the steps before it are trained, and not watched.
        told: where each flush is acknowledged: the step that it followed, 4 bytes; -1: nowhere.
        steps: how many.
        flushing: whether the run asks for flushes.
        held: seconds to wait before the end; that they begin is acknowledged.
        watching: more for watch.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(24, 32, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 12, bias=False),
    )
    optimizer = optgeom.optim.Muon(list(model.parameters()), lr=0.01)
    data = torch.Generator().manual_seed(1)
    recorder, loss = None, torch.tensor(0.0)
    for step in range(steps):
        if step == (start_step or 0):
            recorder = optgeom.watch(
                model,
                optimizer,
                out,
                every=1,
                updates_every=UPDATES_EVERY,
                layers=lambda name, _: True,
                budget=None,
                start_step=start_step,
                **watching,
            )
        inputs = torch.randn(64, 24, generator=data)
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if recorder is None:
            continue
        recorder.log(loss=loss.detach())
        if flushing and step % FLUSH_EVERY == FLUSH_EVERY - 1:
            recorder.flush()
            if told >= 0 and recorder.failure is None:
                os.write(told, step.to_bytes(4, "little"))
    if held:
        os.write(told, steps.to_bytes(4, "little"))
        time.sleep(held)
    if recorder is not None:
        recorder.close()
    return float(loss.detach())


def reference(folder: Path) -> Reference:
    """The undisturbed run, made in a folder of its own."""
    loss = train(folder)
    trace = optgeom.open_trace(folder)
    layers = [layer.name for layer in trace.layers]
    steps = trace.steps().tolist()
    cells = [(step, layer) for step in steps for layer in layers]
    raw = trace.steps(table="updates").tolist()
    scalars = trace.scalars("loss").to_pydict()
    return Reference(
        loss,
        {cell: trace.neuron_norms(*cell) for cell in cells},
        {cell: trace.spectrum(*cell) for cell in cells},
        {(step, layer): trace.matrix(step, layer) for step in raw for layer in layers},
        dict(zip(scalars["step"], scalars["value"], strict=True)),
    )


@dataclass(frozen=True, slots=True)
class Life:
    """A run in a child process.

    Attributes:
        process: its id.
        acknowledged: where its flushes are read from.
        started: by the clock of `time.monotonic`.
    """

    process: int
    acknowledged: int
    started: float

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.process, signal.SIGKILL)

    def wait(self) -> tuple[int, int]:
        """Its exit code (negative: the signal that ended it), and the last step acknowledged."""
        last = -1
        while data := os.read(self.acknowledged, 4):
            last = int.from_bytes(data, "little")
        os.close(self.acknowledged)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), last


def live(run: Callable[[int], object]) -> Life:
    """Fork a child that calls `run` with where to acknowledge; it leaves with 0 if that returns."""
    reads, writes = os.pipe()
    process = os.fork()
    if process:
        os.close(writes)
        return Life(process, reads, time.monotonic())
    code = 1
    try:
        os.close(reads)
        # a full disk is not news to whoever reads the harness's output
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        run(writes)
        code = 0
    finally:
        os._exit(code)


def examine(
    out: Path, known: Reference, *, acknowledged: int, first: int = 0, raw: bool = True
) -> int:
    """Check a trace that was disturbed against the undisturbed run; returns its captured steps.

    Args:
        out: the trace.
        known: the undisturbed run.
        acknowledged: the last step that was flushed: up to it nothing may be missing.
        first: the first step that must be there.
        raw: whether raw matrices must be there too: they are written when their step ends.

    Raises:
        AssertionError: something is missing, there twice, or another number.
    """
    trace = optgeom.open_trace(out)
    report = verify(out)
    assert report.ok, [one for one in report.findings if one.damaged]
    layers = sorted({layer for _, layer in known.norms})
    must = range(first, acknowledged + 1)
    for table in OPEN_TABLES:
        assert trace.index(table).repeated() == 0, f"cells of {table} are there twice"
    for table in (*OPEN_TABLES, "neurons"):
        there = set(trace.steps(table=table).tolist())
        assert there.issuperset(must), (table, sorted(set(must) - there)[:5])
    rows = trace.metrics().select(_KEY).to_pylist()
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    if not trace.stages:
        assert not len(must), "there is nothing at all"
        return 0
    for layer in layers:
        steps, norms = trace.neurons(layer)
        for step, one in zip(steps.tolist(), norms, strict=True):
            np.testing.assert_array_equal(one, known.norms[step, layer])
        for step, values in zip(*trace.spectra(layer), strict=True):
            np.testing.assert_array_equal(values, known.spectra[int(step), layer])
    matrices = {(key.step, key.layer): one for key, one in trace.matrices()}
    for cell, one in matrices.items():
        np.testing.assert_array_equal(one, known.matrices[cell])
    expected = {cell for cell in known.matrices if raw and first <= cell[0] <= acknowledged}
    assert expected.issubset(matrices), sorted(expected.difference(matrices))[:5]
    losses = trace.scalars("loss")
    found = {row["step"]: row["value"] for row in losses.to_pylist()}
    assert len(found) == losses.num_rows, "losses are there twice"
    assert all(known.losses[step] == value for step, value in found.items())
    assert set(must).issubset(found), sorted(set(must) - set(found))[:5]
    return len(trace.steps())
