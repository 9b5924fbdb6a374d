"""A training run that is captured, and what became of its trace.

The run is the same each time to the last bit, so that whatever a trace says of it is compared with
what an undisturbed run says. It is run in forked children, which cost no import of torch.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

import optgeom
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import KEYS, OPEN_TABLES

STEPS = 120
UPDATES_EVERY = 4
FLUSH_EVERY = 8
"""Steps between the flushes that the run waits for."""

ENOUGH = 60.0
"""Seconds after which something hangs."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an undisturbed run recorded.

    Attributes:
        loss: of the last step.
        rows: all scalars of each step and layer, without the keys.
        norms: of each step and layer, (m,) float32.
        spectra: of each step and layer, (r,) float64.
        matrices: of each captured step and layer, (m, n) float32.
        losses: of each step.
    """

    loss: float
    rows: dict[tuple[int, str], dict[str, Any]]
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
        scalars_of(trace),
        {cell: trace.neuron_norms(*cell) for cell in cells},
        {cell: trace.spectrum(*cell) for cell in cells},
        {(step, layer): trace.matrix(step, layer) for step in raw for layer in layers},
        dict(zip(scalars["step"], scalars["value"], strict=True)),
    )


def scalars_of(trace: optgeom.Trace) -> dict[tuple[int, str], dict[str, Any]]:
    """The scalars of each step and layer; a cell that is there twice is an error."""
    found = {}
    for row in trace.metrics().to_pylist():
        keys = {key: row.pop(key) for key in KEYS}
        cell = keys["step"], keys["layer"]
        assert cell not in found, f"{cell} is there twice"
        found[cell] = row
    return found


def same(one: object, other: object) -> bool:
    """Equal to the last bit, NaN to NaN."""
    return one == other or (one != one and other != other)


@dataclass(frozen=True, slots=True)
class Life:
    """A run in a child process.

    Attributes:
        process: its id.
        acknowledged: where its flushes are read from.
        said: the file that has what it wrote to stderr.
    """

    process: int
    acknowledged: int
    said: IO[bytes]

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.process, signal.SIGKILL)

    def wait(self) -> tuple[int, int]:
        """Its exit code (negative: the signal that ended it), and the last step acknowledged."""
        last, end = -1, time.monotonic() + ENOUGH
        while select.select([self.acknowledged], [], [], max(0.0, end - time.monotonic()))[0]:
            data = os.read(self.acknowledged, 4)
            if not data:
                break
            last = int.from_bytes(data, "little")
        else:
            self.kill()
            raise AssertionError(f"it hangs: {self.words()}")
        os.close(self.acknowledged)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), last

    def words(self) -> str:
        """The end of what it wrote to stderr."""
        self.said.seek(0)
        return self.said.read()[-2000:].decode(errors="replace")


def live(run: Callable[[int], object]) -> Life:
    """Fork a child that calls `run` with where to acknowledge; it leaves with 0 if that returns."""
    reads, writes = os.pipe()
    said = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the child
    process = os.fork()
    if process:
        os.close(writes)
        return Life(process, reads, said)
    code = 1
    try:
        os.close(reads)
        os.dup2(said.fileno(), 2)
        run(writes)
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, the parent shows it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def examine(out: Path, known: Reference, *, acknowledged: int, raw: bool = True) -> int:
    """Check a trace that was disturbed against the undisturbed run; returns its captured steps.

    Args:
        out: the trace.
        known: the undisturbed run.
        acknowledged: the last step that was flushed: up to it nothing may be missing.
        raw: whether raw matrices must be there too: they are written when their step ends.

    Raises:
        AssertionError: something is missing, there twice, or another number.
    """
    trace = optgeom.open_trace(out)
    report = verify(out)
    assert report.ok, [one for one in report.findings if one.damaged]
    layers = sorted({layer for _, layer in known.norms})
    must = {(step, layer) for step in range(acknowledged + 1) for layer in layers}
    for table in OPEN_TABLES:
        assert trace.index(table).repeated() == 0, f"cells of {table} are there twice"
    if not trace.stages:
        assert not must, "there is nothing at all"
        return 0
    rows = scalars_of(trace)
    # the first capture of a life has no update before it to be compared with, and of what nobody
    # has acknowledged one table may have rows that another lacks
    begun = {one.start_step for one in trace.info.attempts}
    for cell, row in rows.items():
        for name, value in row.items():
            expected = known.rows[cell][name]
            may_lack = cell[0] in begun or cell[0] > acknowledged
            assert (may_lack and value is None) or same(value, expected), (
                cell,
                name,
                value,
                expected,
            )
    there: dict[str, set[tuple[int, str]]] = {"rows": set(rows)}
    for layer in layers:
        steps, norms = trace.neurons(layer)
        there.setdefault("norms", set()).update((step, layer) for step in steps.tolist())
        for step, one in zip(steps.tolist(), norms, strict=True):
            np.testing.assert_array_equal(one, known.norms[step, layer])
        steps, spectra = trace.spectra(layer)
        there.setdefault("spectra", set()).update((step, layer) for step in steps.tolist())
        for step, one in zip(steps.tolist(), spectra, strict=True):
            np.testing.assert_array_equal(one, known.spectra[step, layer])
        for table in OPEN_TABLES:
            cells = {(step, layer) for step in trace.steps(layer, table=table).tolist()}
            there.setdefault(table, set()).update(cells)
    for table, cells in there.items():
        assert cells >= must, (table, sorted(must - cells)[:5])
    matrices = {(key.step, key.layer): one for key, one in trace.matrices()}
    for cell, one in matrices.items():
        np.testing.assert_array_equal(one, known.matrices[cell])
    if raw:
        stored = {cell for cell in known.matrices if cell[0] <= acknowledged}
        assert stored <= set(matrices), sorted(stored.difference(matrices))[:5]
    losses = trace.scalars("loss")
    found = {row["step"]: row["value"] for row in losses.to_pylist()}
    assert len(found) == losses.num_rows, "losses are there twice"
    assert all(known.losses[step] == value for step, value in found.items())
    assert {step for step, _ in must} <= set(found), "losses are missing"
    return len(trace.steps())
