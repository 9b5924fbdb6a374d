"""How fast `optgeom.analyze` is, beside the bare LAPACK calls and what others use.

Works on the raw matrices of GPT-2 small, captured from a few steps of NorMuon on text: the first
run makes that trace (12 minutes, 5 GB on two cores), later ones take it as it is. Rounds are
interleaved: what stands in one table was measured in one process, in turns.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import LIMITS
from peers import ENVIRONMENT, interpreter
from timing import (
    NS_DTYPE,
    Calibration,
    CaseFailed,
    Interval,
    Number,
    calibrated,
    in_process,
    json_option,
    machine,
    table,
    write_json,
)

import optgeom
from optgeom.geometry import columns
from optgeom.geometry.blas import one_blas_thread
from optgeom.geometry.kernels import LAPACK
from optgeom.geometry.singular import singular_values
from optgeom.traces import RunInfo, Trace, TraceWriter

STAGES = ("gradient", "ns_input", "orthogonalized", "update", "weight")
SETTINGS: dict[str, Any] = {
    "precision": "float32",
    "optimizer.settings.ns_dtype": NS_DTYPE,
    "data.sequence": 256,
    "data.batch": 8,
    "schedule.steps": 4,
    "schedule.warmup": 1,
    "eval_every": 1000,
    "checkpoint_every": 1000,
    "capture.every": 2,
    "capture.updates_every": 2,
    "capture.spectra_every": 1000,
    "capture.last_step": False,
    "capture.stages": list(STAGES),
    "capture.layers": ["blocks.*"],
    "capture.budget": None,
}
SHAPES = ((768, 768), (3072, 768), (768, 3072), (2048, 2048))
BATCHES = {(64, 64): 200, (64, 256): 200, (256, 256): 32, (256, 1024): 16}
MEMORY = 320 << 20

Matrices = list[np.ndarray[Any, np.dtype[np.float32]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for the traces")
    parser.add_argument("--preset", default="124m", help="of the trainer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--blocks", type=int, help="of the model; left out: the preset's")
    json_option(parser)
    given = parser.parse_args(arguments)
    source = captured(given.folder, given.preset, given.blocks)
    print(machine(), flush=True)
    calibration = Calibration()
    tables = {}
    for name in given.tables:
        calibration.run()
        print(f"\n### {name}\n", flush=True)
        tables[name] = TABLES[name](source, given.folder, given.rounds)
        print(table(tables[name]), flush=True)
    calibration.run()
    print(f"\n{calibrated(calibration.gflops)}")
    write_json(given.json, tables, calibration.gflops)


def captured(folder: Path, preset: str, blocks: int | None = None) -> Trace:
    """The trace of a model's matrices, made where it is not there; of fewer blocks if asked."""
    raw = folder / (preset if blocks is None else f"{preset}-{blocks}-blocks")
    if not raw.exists():
        fewer = {} if blocks is None else {"model.blocks": blocks}
        settings = optgeom.trainer.load_config(preset, overrides=SETTINGS | fewer)
        optgeom.trainer.train(settings, out=raw)
    return optgeom.open_trace(raw)


def captured_steps(trace: Trace) -> list[int]:
    """Steps with raw matrices."""
    return [int(step) for step in trace.steps(stage=None, table="updates")]


def copied(
    source: Trace, folder: Path, stages: Sequence[str], steps: Sequence[int], *, norms: bool
) -> Trace:
    """Some of its raw matrices as a trace of their own.

    Args:
        source: where they are.
        folder: of the copy; taken as it is if it is there.
        stages: which stages.
        steps: which steps.
        norms: with what the norms clock recorded; else nothing is recorded of them.
    """
    if not folder.exists():
        declared = {name: columns(name) for name in ("metrics", "spectra")}
        rows = {
            (row["step"], row["layer"], row["stage"]): row for row in source.metrics().to_pylist()
        }
        kept = ("lr", "source", "status", *columns("metrics"))
        info = RunInfo(folder.name, layers=source.layers, columns=declared)
        with TraceWriter(folder, info, wait=True) as writer:
            for cell, matrix in source.matrices(stages=stages, steps=steps):
                row = rows[cell.step, cell.layer, cell.stage]
                names = kept if norms else ("lr", "source")
                writer.metrics(cell, {name: row[name] for name in names if name in row})
                writer.update(cell, matrix)
            for step in steps:
                writer.end_step(step)
        if writer.failure is not None:
            raise writer.failure
    return optgeom.open_trace(folder)


def bare(matrices: Matrices) -> dict[str, float]:
    """Seconds of a float64 Gram matrix and its eigenvalues, for matrices in float64 already."""
    wide = [matrix.astype(np.float64) for matrix in matrices]

    def by_numpy() -> None:
        for matrix in wide:
            short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            np.linalg.eigvalsh(short @ short.T)

    def by_torch() -> None:
        for matrix in map(torch.from_numpy, wide):
            short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.linalg.eigvalsh(short @ short.T)

    return {"numpy": seconds(by_numpy), "torch": seconds(by_torch)}


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def analyzed(trace: Trace, **how: Any) -> float:
    """Seconds of an analysis of everything."""
    shutil.rmtree(Path(trace.path) / "derived", ignore_errors=True)
    opened = optgeom.open_trace(trace.path)
    return seconds(lambda: optgeom.analyze(opened, **how))


def against_lapack(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """Wall time over the faster of the bare calls."""
    steps = captured_steps(source)
    cases = {
        "spectra alone": copied(source, folder / "spectra", ("update",), steps, norms=True),
        "every column": copied(source, folder / "every", STAGES, steps[-1:], norms=False),
    }
    bars = {
        "spectra alone": LIMITS["analysis, spectra"],
        "every column": LIMITS["analysis, every column"],
    }
    rows = []
    for name, trace in cases.items():
        ratios, ours, theirs = [], [], []
        count = 0
        for _ in range(rounds):
            base = {"numpy": 0.0, "torch": 0.0}
            count = 0
            for step in captured_steps(trace):
                matrices = [matrix for _, matrix in trace.matrices(steps=[step])]
                count += len(matrices)
                found = bare(matrices)
                base = {library: base[library] + took for library, took in found.items()}
            took = analyzed(trace)
            ratios.append(took / min(base.values()))
            ours.append(took)
            theirs.append(base)
        rows.append(
            {
                "what": name,
                "matrices": str(count),
                "optgeom.analyze, s": Number(statistics.median(ours), ".1f"),
                "numpy Gram + eigvalsh, s": Number(
                    statistics.median(b["numpy"] for b in theirs), ".1f"
                ),
                "torch the same, s": Number(statistics.median(b["torch"] for b in theirs), ".1f"),
                "over the faster": Number(Interval.of(ratios), ".2f"),
                "bar": f"{bars[name].value:g}",
            }
        )
    return rows


def against_peers(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """Wall time of others for the same matrices, over ours."""
    steps = captured_steps(source)
    update = copied(source, folder / "update", ("update",), steps[-1:], norms=True)
    updates = [torch.from_numpy(np.array(matrix)) for _, matrix in update.matrices()]
    pairs = [
        (seconds(lambda: [torch.linalg.svdvals(matrix) for matrix in updates]), analyzed(update))
        for _ in range(rounds)
    ]
    rows = [_compared("torch.linalg.svdvals, float32: the updates' spectra", pairs, "svdvals")]
    for count in (1, len(steps)):
        weight = copied(source, folder / f"weight-{count}", ("weight",), steps[:count], norms=False)
        name = f"WeightWatcher(model).analyze(): weights, every column, {count} captures"
        try:
            pairs = [(_watched(weight, folder), analyzed(weight)) for _ in range(rounds)]
        except CaseFailed as error:
            rows.append({**dict.fromkeys(rows[0], ""), "beside": f"{name}: failed: {error}"})
        else:
            rows.append(_compared(name, pairs, "WeightWatcher"))
    return rows


def _watched(trace: Trace, folder: Path) -> float:
    """Seconds of WeightWatcher for the weights of each capture."""
    total = 0.0
    for step in captured_steps(trace):
        stored = folder / "weights.npz"
        np.savez(stored, **{cell.layer: matrix for cell, matrix in trace.matrices(steps=[step])})
        found = in_process(
            "weightwatcher_case.py", {"matrices": str(stored)}, python=interpreter(ENVIRONMENT)
        )
        total += found["seconds"]
    return total


def _compared(name: str, pairs: Sequence[tuple[float, float]], limit: str) -> dict[str, str]:
    return {
        "beside": name,
        "theirs, s": Number(statistics.median(theirs for theirs, _ in pairs), ".1f"),
        "optgeom.analyze, s": Number(statistics.median(ours for _, ours in pairs), ".1f"),
        "theirs over ours": Number(Interval.of([theirs / ours for theirs, ours in pairs]), ".2f"),
        "bar": f"{LIMITS[limit].value:g}",
    }


def methods(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """One matrix on one thread, by method and shape; errors against a float64 SVD."""
    rows = []
    random = np.random.default_rng(0)
    torch.set_num_threads(1)
    with one_blas_thread():
        for shape in SHAPES:
            left, _, right = np.linalg.svd(random.standard_normal(shape), full_matrices=False)
            flat = left * np.geomspace(1.0, 1 / 3, min(shape)) @ right
            matrix = torch.from_numpy(flat.astype(np.float32))
            exact = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
            ways: dict[str, Callable[[], Any]] = {
                "gram": lambda m=matrix: singular_values(m, kernels=LAPACK),
                "gram32": lambda m=matrix: singular_values(
                    m, expected_condition=1.0, kernels=LAPACK
                ),
                "svd": lambda m=matrix: np.linalg.svd(m.double().numpy(), compute_uv=False),
            }
            row = {"shape": f"{shape[0]} x {shape[1]}"}
            for name, way in ways.items():
                found = way()
                values = found if isinstance(found, np.ndarray) else found.values.numpy()
                error = np.max(np.abs(values - exact) / exact)
                took = min(seconds(way) for _ in range(rounds))
                row[f"{name}, ms"] = Number(took * 1e3, ".0f")
                row[f"{name}, error"] = Number(float(error), ".0e")
            rows.append(row)
    torch.set_num_threads(2)
    return rows


def reading(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """Raw matrices per second from the page cache, every byte compared, by number of threads."""
    (step, *_) = captured_steps(source)
    keys = [(layer.name, stage) for layer in source.layers for stage in ("update", "weight")]
    total = sum(source.matrix(step, *key).nbytes for key in keys)

    def all_of_them(threads: int) -> None:
        opened = optgeom.open_trace(source.path)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda key: opened.matrix(step, *key).shape, keys))

    best = {
        count: min(seconds(lambda count=count: all_of_them(count)) for _ in range(rounds))
        for count in (1, 2, 4, 8)
    }
    return [
        {
            f"{count} threads, GB/s": Number(total / took / 1e9, ".1f")
            for count, took in best.items()
        }
    ]


def batches(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """Spectra of matrices of one shape, one by one and in one call, on one thread."""
    rows = []
    with one_blas_thread():
        for shape, count in BATCHES.items():
            stack = torch.from_numpy(np.random.default_rng(0).standard_normal((count, *shape)))
            each = min(
                seconds(lambda s=stack: [singular_values(one, kernels=LAPACK) for one in s])
                for _ in range(rounds)
            )
            whole = min(
                seconds(lambda s=stack: singular_values(s, kernels=LAPACK)) for _ in range(rounds)
            )
            name = f"{shape[0]} x {shape[1]}"
            millis = {"one by one, ms": each, "in one call, ms": whole}
            rows.append(
                {"shape": name, **{k: Number(1e3 * v / count, ".2f") for k, v in millis.items()}}
            )
    return rows


def memory(source: Trace, folder: Path, rounds: int) -> list[dict[str, str]]:
    """Peak resident memory of an analysis, in a process of its own, under a setting."""
    last = captured_steps(source)[-1:]
    small = copied(source, folder / "update", ("update",), last, norms=True)
    whole = copied(source, folder / "every", STAGES, last, norms=False)
    rows = []
    for trace in (small, whole, source):
        shutil.rmtree(Path(trace.path) / "derived", ignore_errors=True)
        found = in_process("analysis_case.py", {"trace": trace.path, "memory": MEMORY})
        rows.append(
            {
                "trace, MiB": Number(trace.size_bytes / 2**20, ".0f"),
                "setting, MiB": Number(MEMORY / 2**20, ".0f"),
                "peak over an idle process, MiB": Number(found["peak"] / 2**20, ".0f"),
            }
        )
    return rows


TABLES: dict[str, Callable[[Trace, Path, int], list[dict[str, str]]]] = {
    "Over the bare LAPACK calls": against_lapack,
    "Beside others": against_peers,
    "Methods": methods,
    "Memory": memory,
    "Reading": reading,
    "Batches": batches,
}


if __name__ == "__main__":
    main()
