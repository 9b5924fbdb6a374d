"""Small runs with plausible geometry, written by the real writer: what the pictures are drawn of.

The matrices are synthetic (a decaying spectrum, uneven rows), the metrics of them are computed
here with numpy, independently of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.writer import TraceWriter

COLUMNS = {
    "metrics": {
        "neuron_norm_cv": "float64",
        "neuron_norm_max_min": "float64",
        "update_rms": "float64",
        "frobenius_norm": "float64",
    },
    "spectra": {
        "condition_number": "float64",
        "spectral_norm": "float64",
        "noise_floor": "float64",
        "stable_rank": "float64",
    },
}
PARTS = {
    "attention.q": (1, 1),
    "attention.k": (1, 1),
    "attention.v": (1, 1),
    "attention.o": (1, 1),
    "mlp.up": (4, 1),
    "mlp.down": (1, 4),
}
OPTIMIZERS = {
    "normuon": "optgeom.optim.normuon.NorMuon",
    "muon": "optgeom.optim.muon.Muon",
    "adamw": "torch.optim.adamw.AdamW",
}


def layers(
    algorithm: str, *, blocks: int, width: int, names: Sequence[str] = ()
) -> tuple[LayerInfo, ...]:
    found = []
    for block in range(blocks):
        for kind, (rows, cols) in PARTS.items():
            name = f"blocks.{block}.{kind}.weight"
            shape = (rows * width, cols * width)
            found.append(
                LayerInfo(name, kind, block, shape, "float32", "optimizer", 0, algorithm, "rows")
            )
    for place, name in enumerate(names):
        shape = (width, width)
        found.append(
            LayerInfo(name, "other", None, shape, "float32", "optimizer", place, algorithm)
        )
    return tuple(found)


def momentum(rng: np.random.Generator, shape: tuple[int, int], depth: float) -> Any:
    rank = min(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
    left *= np.exp(0.55 * rng.standard_normal((shape[0], 1)))
    right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
    spectrum = np.exp(-np.linspace(0, 5.5 + depth, rank))
    return (left * spectrum) @ right.T


def step_of(algorithm: str, matrix: Any, rng: np.random.Generator) -> Any:
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    band = rng.uniform(0.72, 1.18, size=left.shape[1])
    muon = 0.2 * np.sqrt(max(matrix.shape)) * (left * band) @ right
    if algorithm == "muon":
        return muon
    if algorithm == "normuon":
        norms = np.linalg.norm(muon, axis=1, keepdims=True)
        scaled = muon / norms**0.85
        return 0.2 * np.sqrt(muon.size) * scaled / np.linalg.norm(scaled)
    return matrix / (np.abs(matrix) ** 0.7 + 1e-9)


def scalars_of(matrix: Any) -> tuple[dict[str, float], dict[str, float], Any, Any]:
    norms = np.linalg.norm(matrix, axis=1)
    values = np.linalg.svd(matrix, compute_uv=False)
    metrics = {
        "neuron_norm_cv": float(norms.std() / norms.mean()),
        "neuron_norm_max_min": float(norms.max() / norms.min()),
        "update_rms": float(np.sqrt((matrix**2).mean())),
        "frobenius_norm": float(np.linalg.norm(matrix)),
    }
    spectra = {
        "condition_number": float(values[0] / values[-1]),
        "spectral_norm": float(values[0]),
        "noise_floor": float(values[0] * 1.2e-7),
        "stable_rank": float((values**2).sum() / values[0] ** 2),
    }
    return metrics, spectra, norms, values


def write_run(
    out: Path,
    algorithm: str,
    *,
    steps: Sequence[int] = tuple(range(0, 41, 10)),
    blocks: int = 2,
    width: int = 16,
    stages: Sequence[str] = ("gradient", "momentum", "update"),
    raw: Sequence[int] = (),
    names: Sequence[str] = (),
    seed: int = 0,
    close: bool = True,
    spectra: bool = True,
    start_step: int | None = None,
) -> TraceWriter:
    """Write one run; with ``close=False`` the writer is returned open, as of a live run."""
    captured = (*stages, "ns_input") if raw and algorithm != "adamw" else tuple(stages)
    info = RunInfo(
        run=out.name,
        created="2026-11-22T12:00:00+00:00",
        versions={"optgeom": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        command=("optgeom", "demo"),
        capture={"every": 10, "spectra_every": 10, "stages": list(captured), "budget": None},
        optimizers=(
            OptimizerInfo(
                "optimizer",
                OPTIMIZERS.get(algorithm, algorithm),
                ({"algorithm": algorithm, "lr": 3e-3 if algorithm == "adamw" else 0.01},),
            ),
        ),
        layers=layers(algorithm, blocks=blocks, width=width, names=names),
        config={"model": {"width": width, "blocks": blocks}, "seed": seed, "steps": max(steps)},
        columns=COLUMNS,
    )
    writer = TraceWriter(out, info, start_step=start_step)
    put_steps(writer, algorithm, steps, raw=raw, stages=stages, seed=seed, spectra=spectra)
    if close:
        writer.close()
    else:
        writer.flush()
    return writer


def put_steps(
    writer: TraceWriter,
    algorithm: str,
    steps: Sequence[int],
    *,
    raw: Sequence[int] = (),
    stages: Sequence[str] = ("gradient", "momentum", "update"),
    seed: int = 0,
    spectra: bool = True,
) -> None:
    fall = {"normuon": 130.0, "muon": 150.0, "adamw": 210.0}.get(algorithm, 150.0)
    rng = np.random.default_rng(seed + 7)
    for step in range(min(steps), max(steps) + 1):
        noise = 0.03 * rng.standard_normal()
        writer.scalar(step, "loss", 1.6 + 3.9 * float(np.exp(-step / fall)) + noise)
        writer.scalar(step, "tokens", (step + 1) * 4096.0)
        writer.scalar(step, "elapsed_seconds", 0.1 * (step + 1))
    for step in steps:
        writer.scalar(step, "capture_seconds", 0.012)
        writer.scalar(step, "capture_share", 0.012)
        for place, layer in enumerate(writer.info.layers):
            seeds = np.random.default_rng([seed, place, step])
            depth = 0.3 * (layer.block or 0)
            base = np.random.default_rng([seed, place])
            matrix = momentum(base, layer.shape, depth) * (1 + 0.1 * np.sin(step / 40))
            matrix = matrix + 0.02 * np.abs(matrix).mean() * seeds.standard_normal(layer.shape)
            each = {
                "gradient": matrix
                + 0.3 * np.abs(matrix).mean() * seeds.standard_normal(layer.shape),
                "momentum": matrix,
                "update": step_of(algorithm, matrix, seeds),
            }
            for stage in stages:
                key = Cell(step, "optimizer", layer.name, layer.kind, layer.block, stage)
                metrics, conditioning, norms, values = scalars_of(each[stage])
                extra = {"source": "dispatch", "lr": 0.01} if stage == "update" else {}
                writer.metrics(key, {**metrics, **extra, "status": "ok"})
                writer.neurons(key, norms.astype(np.float32))
                if spectra:
                    status = {"spectrum_status": "ok", "spectrum_method": "gram"}
                    writer.spectrum(key, values.astype(np.float32), {**conditioning, **status})
            if step in raw and algorithm != "adamw":
                key = Cell(step, "optimizer", layer.name, layer.kind, layer.block, "ns_input")
                writer.update(key, matrix.astype(np.float32), dtype="float32")
        writer.end_step(step)


def write_arrays(
    out: Path,
    steps: Sequence[int],
    *,
    norms: Any = None,
    spectra: Any = None,
    metrics: Any = None,
    count: int = 1,
    algorithm: str = "muon",
) -> TraceWriter:
    """Write a run of given numbers: what no small training run could have produced.

    Args:
        out: the folder.
        steps: the captured steps.
        norms: (k, m) neuron norms of the first layer.
        spectra: (k, r) singular values of the first layer.
        metrics: (k, count) neuron_norm_cv of every layer, and ten times that as its condition
            number; NaN leaves the cell out.
        count: layers, blocks.0.mlp.up.weight and so on, kinds in turn.
        algorithm: what the run is called by.
    """
    shape = (2 if norms is None else norms.shape[1], 2)
    kinds = list(PARTS)[::-1]
    made = tuple(
        LayerInfo(
            f"blocks.{place // len(kinds)}.{kinds[place % len(kinds)]}.weight",
            kinds[place % len(kinds)],
            place // len(kinds),
            shape,
            "float32",
            "optimizer",
            0,
            algorithm,
            "rows",
        )
        for place in range(count)
    )
    info = RunInfo(
        run=out.name,
        created="2026-11-22T12:00:00+00:00",
        versions={},
        command=(),
        capture={},
        optimizers=(OptimizerInfo("optimizer", OPTIMIZERS[algorithm], ()),),
        layers=made,
        config={},
        columns=COLUMNS,
    )
    writer = TraceWriter(out, info)
    for row, step in enumerate(steps):
        for place, layer in enumerate(made):
            key = Cell(step, "optimizer", layer.name, layer.kind, layer.block, "update")
            if metrics is not None and not np.isnan(metrics[row, place]):
                value = float(metrics[row, place])
                writer.metrics(
                    key, {"neuron_norm_cv": value, "frobenius_norm": 1.0, "status": "ok"}
                )
                held = {"condition_number": 10 * value, "spectrum_status": "ok"}
                writer.spectrum(key, None, held)
        key = Cell(step, "optimizer", made[0].name, made[0].kind, made[0].block, "update")
        if norms is not None:
            writer.neurons(key, np.asarray(norms[row], dtype=np.float32))
        if spectra is not None:
            values = np.asarray(spectra[row], dtype=np.float32)
            usable = bool(np.isfinite(values).all())
            status = {"spectrum_status": "ok" if usable else "non_finite"}
            writer.spectrum(key, values if usable else None, status)
        writer.end_step(step)
    writer.close()
    return writer


def write_demo(
    folder: Path, *, steps: Sequence[int] = tuple(range(0, 41, 10)), **settings: Any
) -> Path:
    """Write three runs side by side, as the demo does."""
    for algorithm in ("adamw", "muon", "normuon"):
        write_run(folder / algorithm, algorithm, steps=steps, **settings)
    return folder
