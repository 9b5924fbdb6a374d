"""A plan beside what small real runs take: disk and state; `--rates`: captures, in CPU seconds.

`--constants` fits the bytes of a trace's files anew, as trainer/planning/constants.py has them.
How it is measured: docs/plan.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from timing import machine, table

import optgeom
from optgeom.trainer import TrainConfig, load_config, plan, train
from optgeom.trainer.optimizers import build_optimizer
from optgeom.trainer.planning.machine import CPU

TABLES = ("metrics", "neurons", "spectra", "updates", "scalars")
SMALL: Mapping[str, Any] = {
    "data.sequence": 32,
    "data.batch": 4,
    "schedule.warmup": 1,
    "capture.every": 1,
    "capture.last_step": False,
    "eval_batches": 1,
    "optimizer.settings.ns_dtype": "float32",
    "device": "cpu",
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "width 64, 2 blocks": {"model.width": 64, "model.blocks": 2},
    "width 128, 4 blocks": {"model.width": 128, "model.blocks": 4},
    "width 256, 4 blocks": {"model.width": 256, "model.blocks": 4},
    "width 64, gated, three stages": {
        "model.width": 64,
        "model.mlp": "gated",
        "model.kv_heads": 2,
        "capture.stages": ("gradient", "momentum", "update"),
    },
}


def config_of(case: str, steps: int, **more: Any) -> TrainConfig:
    """Settings of a case; every step is captured, raw matrices at every tenth."""
    own = {"schedule.steps": steps, "capture.updates_every": 10}
    return load_config(overrides={**SMALL, **CASES[case], **own, **more})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--constants", action="store_true", help="fit bytes of files anew")
    parser.add_argument("--rates", action="store_true", help="time captures, and fit their rates")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        if given.constants:
            print(table(list(fitted(Path(folder), given.steps))))
            return
        if given.rates:
            print_rates(Path(folder))
            return
        rows = []
        for case in CASES:
            rows += compared(case, Path(folder) / case, given.steps)
        print(table(rows))


def print_rates(folder: Path) -> None:
    """Captures of two sizes, and the two rates that go through them."""
    cases = {"width 64, 2 blocks": 6, "width 256, 4 blocks": 6}
    rows, found = zip(*(timed(folder / case, case, n) for case, n in cases.items()), strict=True)
    print(table(rows), end="\n\n")
    layers, held, norms, background = np.asarray(found).T
    each, byte = np.linalg.solve(np.stack([layers, held], axis=1), norms)
    print(f"captured step: {1e3 * each:.3g} ms a matrix, {1e-9 / byte:.3g} GB/s")
    print(f"background: {', '.join(f'{1e3 * one:.3g}' for one in background / layers)} ms a matrix")


def compared(case: str, out: Path, steps: int) -> Iterator[dict[str, str]]:
    """Rows of one case: predicted, measured, and the first over the second."""
    config, kept = config_of(case, steps), []

    def keeping(model: Any, settings: Any) -> Any:
        kept.append(build_optimizer(model, settings))
        return kept[-1]

    train(config, out=out, make_optimizer=keeping)
    found = plan(config, 1, CPU)
    for name in TABLES:
        size = sum(one.stat().st_size for one in (out / name).glob("*.parquet"))
        yield _row(case, f"{name}, bytes", found.disk.bytes[name], size)
    state = sum(
        value.nbytes for one in kept[0].state.values() for k, value in one.items() if k != "step"
    )
    yield _row(case, "optimizer state, bytes", found.memory.state, state)


def timed(out: Path, case: str, captures: int) -> tuple[dict[str, str], list[float]]:
    """CPU seconds of captures that compare every layer, which a loaded machine stretches least.

    Returns:
        A row; layers, bytes of their weights, seconds of the training thread, of the background.
    """
    every = 32  # from here on every captured step compares all layers
    more = {"capture.every": every, "capture.updates_every": 0, "data.batch": 1}
    config = config_of(case, every * captures, **more)
    clock = time.perf_counter
    time.perf_counter = time.thread_time
    try:
        train(config, out=out)
    finally:
        time.perf_counter = clock
    trace = optgeom.open_trace(str(out))
    values = {
        name: trace.scalars(name).column("value").to_pylist()
        for name in ("capture_seconds", "background_seconds")
    }
    norms = statistics.median(values["capture_seconds"][2:])
    background = float(np.median(np.diff(values["background_seconds"])[1:]))
    held = 4 * sum(rows * cols for rows, cols in (one.shape for one in trace.layers))
    count, found = len(trace.layers), plan(config, 1, CPU)
    row = {
        "case": f"{case}, {count} layers",
        "captured step adds, ms": f"{1e3 * norms:.3g}",
        "predicted": f"{1e3 * found.times.captured:.3g}",
        "in background, ms": f"{1e3 * background:.3g}",
        "predicted there": f"{1e3 * found.times.spectra:.3g}",
    }
    return row, [count * len(config.capture.stages), held, norms, background]


def _row(case: str, what: str, predicted: float, measured: float) -> dict[str, str]:
    ratio = predicted / measured if measured else float("nan")
    return {
        "case": case,
        "what": what,
        "predicted": f"{predicted:,.4g}",
        "measured": f"{measured:,.4g}",
        "ratio": f"{ratio:.2f}",
    }


def fitted(folder: Path, steps: int) -> Iterator[dict[str, str]]:
    """Least squares of a table's bytes on its files, rows and numbers, over several runs."""
    cases: dict[str, list[tuple[int, int, int, int]]] = {name: [] for name in TABLES}
    for case in CASES:
        for factor in (1, 4):
            out = folder / f"{case} {factor}"
            train(config_of(case, factor * steps), out=out)
            for name in TABLES:
                cases[name].append(_counted(out / name, name))
    for name, rows in cases.items():
        files, count, values, size = np.asarray(rows, dtype=np.float64).T
        columns = [files, count, *([values] if values.any() else [])]
        # relative errors: a small run's file counts as much as a large one's
        scaled = np.stack(columns, axis=1) / size[:, None]
        found, *_ = np.linalg.lstsq(scaled, np.ones(len(size)), rcond=None)
        worst = float(np.abs(scaled @ found - 1).max())
        names = ("bytes a file", "a row", "a number")
        yield {
            "table": name,
            **{key: f"{one:.3g}" for key, one in zip(names, [*found, 0.0], strict=False)},
            "worst error": f"{100 * worst:.1f} %",
        }


def _counted(folder: Path, name: str) -> tuple[int, int, int, int]:
    files = list(folder.glob("*.parquet"))
    tables = [pq.ParquetFile(one) for one in files]
    rows = sum(one.metadata.num_rows for one in tables)
    values = 0
    lists = {"neurons": "neuron_norms", "spectra": "singular_values"}
    for one in tables:
        if name in lists:
            column = one.read(columns=[lists[name]]).column(0)
            values += sum(len(each) for each in column.to_pylist() if each is not None)
        elif name == "updates":
            sides = one.read(columns=["rows", "cols"]).to_pydict()
            values += sum(a * b for a, b in zip(sides["rows"], sides["cols"], strict=True))
    return len(files), rows, values, sum(one.stat().st_size for one in files)


if __name__ == "__main__":
    main()
