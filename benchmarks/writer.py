"""What the writer costs: raw matrices against a plain write, a submit, reading one back.

The matrices are the 48 of GPT-2 small's blocks (340 MB in float32), on the disk of FOLDER. Methods
take turns within each round, all end with fsync, and ratios are of one round. Reading asks a trace
of the shape of 100 GB: its matrices are zeros, and its files have holes where those were.
Run it with nothing else at work: ``python benchmarks/writer.py FOLDER``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import (
    Calibration,
    Interval,
    Number,
    Spread,
    calibrated,
    json_option,
    machine,
    prepare,
    table,
    write_json,
)

from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter, open_trace

SHAPES = {"qkv": (2304, 768), "o": (768, 768), "up": (3072, 768), "down": (768, 3072)}
BLOCKS = 12
STAGE = "update"

PARTS = ("throughput", "latency", "reading", "scalars")

Matrices = Mapping[str, np.ndarray[Any, Any]]
Rows = list[Mapping[str, str]]


def matrices(make: Callable[[tuple[int, int]], np.ndarray[Any, Any]]) -> Matrices:
    """By layer, in the model's order."""
    return {
        f"h.{block}.{name}": make(shape)
        for block in range(BLOCKS)
        for name, shape in SHAPES.items()
    }


def run_info(found: Matrices) -> RunInfo:
    """What run.json says of them."""
    layers = tuple(
        LayerInfo(name, "other", int(name.split(".")[1]), one.shape, "float32", "o", 0)
        for name, one in found.items()
    )
    columns = {"metrics": {"neuron_norm_cv": "float64"}}
    return RunInfo("run", layers=layers, columns=columns)


def cell(step: int, layer: str) -> Cell:
    """Where a matrix belongs."""
    return Cell(step, "o", layer, "other", int(layer.split(".")[1]), STAGE)


def submit(writer: TraceWriter, step: int, found: Matrices) -> list[float]:
    """Hand over the matrices of a step; returns the seconds of each call."""
    took = []
    for name, one in found.items():
        key = cell(step, name)
        started = time.perf_counter()
        writer.update(key, one)
        took.append(time.perf_counter() - started)
    writer.end_step(step)
    return took


def throughput(folder: Path, rounds: int, calibration: Calibration) -> Rows:
    """MB/s of each method, and of its ratio to the plain write."""
    try:
        save_file = import_module("safetensors.numpy").save_file
    except ImportError as error:
        raise SystemExit(
            f"{error}: run it with .venv/peers/bin/python, which python benchmarks/peers.py makes"
        ) from error

    rng = np.random.default_rng(0)
    found = matrices(lambda shape: rng.standard_normal(shape, dtype=np.float32))
    tensors = {name: torch.from_numpy(one) for name, one in found.items()}
    total = sum(one.nbytes for one in found.values())
    target = folder / "file"

    def plain() -> None:
        with target.open("wb", buffering=0) as file:
            for one in found.values():
                file.write(one.data)
            os.fsync(file.fileno())

    def torch_save() -> None:
        with target.open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())

    def safetensors() -> None:
        save_file(dict(found), target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    with TraceWriter(folder / "run", run_info(found), queue_bytes=2 * total) as writer:
        steps = iter(range(1 << 30))

        def ours() -> None:
            submit(writer, next(steps), found)
            writer.flush()

        methods = {
            "plain write + fsync": plain,
            "optgeom": ours,
            "torch.save + fsync": torch_save,
            "safetensors + fsync": safetensors,
        }
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        order = list(methods)
        for at in range(rounds + 1):
            for name in order[at % 4 :] + order[: at % 4]:
                # what went before leaves its pages, or a later method would take fresh ones, which
                # a virtual machine pays ten times for
                for file in (target, *(folder / "run" / "updates").glob("a*")):
                    file.unlink(missing_ok=True)
                os.sync()
                calibration.run()
                started = time.perf_counter()
                methods[name]()
                if at:  # the first round grows files and pools
                    seconds[name].append(time.perf_counter() - started)
    if writer.failure is not None or writer.dropped:
        raise SystemExit(f"the writer failed: {writer.failure}, {writer.dropped}")
    base = np.array(seconds["plain write + fsync"])
    mine = np.array(seconds["optgeom"])
    return [
        {
            "": name,
            "MB/s": Number(Interval.of((total / 1e6 / np.array(one)).tolist()), ".0f"),
            "of the plain write": Number(Interval.of((base / np.array(one)).tolist()), ".2f"),
            "optgeom's time over it": Number(Interval.of((mine / np.array(one)).tolist()), ".2f"),
        }
        for name, one in seconds.items()
    ]


def latency(folder: Path, steps: int) -> Rows:
    """What one call costs the caller, while the thread is at work on those before."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal((3072, 768), dtype=np.float32)
    found = {f"h.{number}.up": one for number in range(BLOCKS)}
    took: list[float] = []
    with TraceWriter(folder / "latency", run_info(found), queue_bytes=1 << 40) as writer:
        for step in range(steps):
            took += submit(writer, step, found)
            end = time.perf_counter() + 0.015 * BLOCKS
            while time.perf_counter() < end:  # a training thread that holds the interpreter
                sum(range(1000))
    writer.close()
    if writer.failure is not None or writer.dropped:
        raise SystemExit(f"the writer failed: {writer.failure}, {writer.dropped}")
    shutil.rmtree(folder / "latency")
    p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e6
    return [
        {
            "calls": str(len(took)),
            "median, us": Number(p50, ".0f"),
            "p99, us": Number(p99, ".0f"),
            "longest, us": Number(1e6 * max(took), ".0f"),
        }
    ]


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def spread(times: Sequence[float]) -> Number:
    """The median, and the longest."""
    return Number(Spread(float(np.median(times)), max(times)), ".1f")


def large(folder: Path, captures: int) -> Path:
    """A trace of the shape of 100 GB: 48 matrices at many steps, all zeros and so all holes."""
    run = folder / "large"
    found = matrices(lambda shape: np.zeros(shape, np.float32))
    with TraceWriter(run, run_info(found), queue_bytes=1 << 30, wait=True) as writer:
        for step in range(0, 1000 * captures, 1000):
            for name in found:
                writer.metrics(cell(step, name), {"status": "ok", "neuron_norm_cv": 0.5})
            submit(writer, step, found)
            writer.flush()
            for one in (run / "updates").glob("a*.parquet"):
                if one.stat().st_blocks * 1024 > one.stat().st_size:
                    subprocess.run(["fallocate", "--dig-holes", str(one)], check=True)
    return run


@contextmanager
def growing(run: Path) -> Iterator[Callable[[], None]]:
    """A live run: each call writes one more step."""
    info = replace(open_trace(run).info)
    steps = iter(range(10_000_000, 20_000_000))
    with TraceWriter(run, info, start_step=10_000_000) as writer:

        def write() -> None:
            step = next(steps)
            writer.metrics(cell(step, "h.0.up"), {"status": "ok", "neuron_norm_cv": 0.5})
            writer.scalar(step, "loss", 1.0)
            writer.flush()

        yield write


def reading(run: Path) -> Rows:
    """What one question costs a process that has only just opened the trace, and a refresh."""
    files = [*run.rglob("a*.parquet")]
    apparent = sum(one.stat().st_size for one in files)
    opened, first, further = [], [], []
    picked = np.random.default_rng(1)
    steps = open_trace(run).steps(table="metrics").tolist()
    for _ in range(5):
        opened.append(timed(partial(open_trace, run)))
        trace = open_trace(run)
        first.append(timed(partial(trace.matrix, steps[-1], "h.3.up")))
        for _ in range(20):
            name = str(picked.choice([one.name for one in trace.layers]))
            further.append(timed(partial(trace.matrix, int(picked.choice(steps)), name)))
    with growing(run) as write:
        trace, news = open_trace(run), []
        trace.grid("neuron_norm_cv")
        for _ in range(20):
            write()
            news.append(timed(lambda: (trace.refresh(), trace.scalars("loss"))))
    rows = {
        f"opening {apparent / 1e9:.0f} GB in {len(files)} files": spread(opened),
        "the first matrix": spread(first),
        "a further matrix of any step and layer": spread(further),
        "a refresh that finds one new step, and its loss": spread(news),
    }
    return [{"milliseconds, median (longest)": k, "": v} for k, v in rows.items()]


def scalars(folder: Path, count: int) -> Rows:
    """Reading a million numbers that were logged."""
    run = folder / "scalars"
    with TraceWriter(run, RunInfo("scalars"), queue_bytes=1 << 30, wait=True) as writer:
        for step in range(count // 4):
            for name in ("loss", "lr", "step_seconds", "tokens"):
                writer.scalar(step, name, step * 0.5)
    took = [timed(lambda: open_trace(run).scalars()) for _ in range(5)]
    return [{f"{count:,} scalars, opening included, ms": spread(took)}]


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="on the disk to measure; needs 2 GB")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--captures", type=int, default=300, help="of the large trace")
    parser.add_argument("--steps", type=int, default=50, help="of the latency (%(default)s)")
    parser.add_argument("--scalars", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    json_option(parser)
    given = parser.parse_args()
    prepare()
    print(machine(), file=sys.stdout)
    calibration = Calibration()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Rows]] = {
            "throughput": lambda: throughput(folder, given.rounds, calibration),
            "latency": lambda: latency(folder, given.steps),
            "reading": lambda: reading(large(folder, given.captures)),
            "scalars": lambda: scalars(folder, given.scalars),
        }
        tables = {}
        for part, measure in parts.items():
            if part in given.only:
                tables[part] = measure()
                print(f"\n{part}\n\n{table(tables[part])}", flush=True)
    print(f"\n{calibrated(calibration.gflops)}")
    write_json(given.json, tables, calibration.gflops)


if __name__ == "__main__":
    main()
