"""The same checks and timings on whatever CUDA devices are there; a dated report of them.

Without one it says so and succeeds. ``--device cpu --shapes tiny`` runs every line of it anywhere.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch
from sharded import run_rows
from timing import Interval, added, machine, table
from torch import Tensor, nn

import optgeom
from optgeom.geometry.measure import measure_norms, measure_spectrum
from optgeom.optim import Muon, NorMuon, orthogonalize
from optgeom.trainer.config import ModelConfig
from optgeom.trainer.model import GPT, build_model, cross_entropy
from optgeom.trainer.optimizers import build_optimizer
from optgeom.trainer.settings import load_config

RESULTS = Path(__file__).parent / "results"
SIZES = {
    "tiny": ModelConfig(width=32, heads=2, blocks=2),
    "124m": load_config("124m").model,
    "350m": load_config("350m").model,
}
CHECK = (256, 192)
"""Shape of the matrices that are compared with float64."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, measure, print, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=["124m", "350m"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8, help="sequences of 1024 tokens")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was checked or measured")
        return
    text = "\n\n".join(_sections(given))
    print(text)
    given.results.mkdir(parents=True, exist_ok=True)
    report = given.results / f"{given.device}-{datetime.now(UTC):%Y-%m-%d-%H%M}.md"
    report.write_text(text + "\n")
    print(f"\nwritten to {report}")
    if "MISSED" in text or "failed:" in text:
        sys.exit(1)


def _sections(given: argparse.Namespace) -> Iterator[str]:
    device = torch.device(given.device)
    count = torch.cuda.device_count() if given.device == "cuda" else 1
    name = torch.cuda.get_device_name() if given.device == "cuda" else "the CPU"
    yield f"# {count} x {name}\n\n{machine()}"
    yield "## Checks\n\n" + table(list(_checks(device)))
    rows = [row for size in given.shapes for row in _step_rows(size, device, given.rounds)]
    yield "## Optimizer steps, hidden matrices in bfloat16\n\n" + table(rows)
    rows = [
        row
        for size in given.shapes
        for row in _capture_rows(size, device, given.rounds, given.batch)
    ]
    yield "## Norms of every matrix at every second step, whole training steps\n\n" + table(rows)
    shapes = sorted({shape for size in given.shapes for shape in _shapes(size)})
    yield "## Analysis of one matrix\n\n" + table([_analysis_row(s, device) for s in shapes])
    if count > 1:
        ranks = [world for world in (2, 4, 8) if world <= count]
        rows = [row for world in ranks for row in run_rows("768", world, given.rounds, "cuda")]
        yield "## Sharded optimizer steps\n\n" + table(rows)


def _shapes(size: str) -> list[tuple[int, int]]:
    """The hidden matrices of a model."""
    with torch.device("meta"):
        model = GPT(SIZES[size], length=16)
    return [(p.shape[0], p.shape[1]) for p in model.blocks.parameters() if p.ndim == 2]


# -- checks ------------------------------------------------------------------------------------


def _checks(device: torch.device) -> Iterator[dict[str, str]]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(CHECK, generator=generator)
    exact = orthogonalize(matrix.double().float(), dtype="float32")
    found = orthogonalize(matrix.to(device), dtype="float32").cpu()
    yield _check("orthogonalize, float32, against the CPU", _distance(found, exact), 1e-4)
    stack = torch.randn(5, *CHECK, generator=generator).to(device)
    alone = torch.stack([orthogonalize(one[None])[0] for one in stack])
    yield _check(
        "orthogonalize, bfloat16, in a batch of 5 and alone",
        _distance(orthogonalize(stack).float(), alone.float()),
        1e-2,
    )
    here, there = (measure_norms(m).values for m in (matrix, matrix.to(device)))
    worst = max(abs(there[k] - v) / abs(v) for k, v in here.items() if isinstance(v, float) and v)
    yield _check("norms of a matrix, against the CPU", worst, 1e-5)
    here, there = (measure_spectrum(m).values for m in (matrix, matrix.to(device)))
    worst = max(abs(there[k] - v) / abs(v) for k, v in here.items() if isinstance(v, float) and v)
    yield _check("spectrum of a matrix, against the CPU", worst, 1e-5)
    yield _analysis_check(device)
    yield from _capture_checks(device)
    yield from _wait_checks(device)


def _analysis_check(device: torch.device) -> dict[str, str]:
    """Raw matrices analyzed on the device and by LAPACK: every number of every column."""
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here", Path(folder) / "there"
        _trained(lambda ps: NorMuon(ps, lr=1e-2), device, here)
        for table_of_records in ("metrics", "spectra", "neurons"):
            shutil.rmtree(here / table_of_records)
        shutil.copytree(here, there)
        rows = [
            optgeom.analyze(optgeom.open_trace(here)).to_pylist(),
            optgeom.analyze(optgeom.open_trace(there), device=str(device)).to_pylist(),
        ]
    pairs = [
        (value, other[name])
        for one, other in zip(*rows, strict=True)
        for name, value in one.items()
        if isinstance(value, float) and value
    ]
    worst = max((abs(other - value) / abs(value) for value, other in pairs), default=math.inf)
    return _check(f"{len(pairs)} analyzed numbers, against LAPACK's", worst, 1e-5)


def _capture_checks(device: torch.device) -> Iterator[dict[str, str]]:
    """A watched run beside an unwatched one, and its records beside a float64 twin's updates."""
    for name, make in {
        "AdamW, for-loop": lambda ps: torch.optim.AdamW(ps, lr=1e-2, foreach=False),
        "AdamW, foreach": lambda ps: torch.optim.AdamW(ps, lr=1e-2, foreach=True),
        "AdamW, fused": lambda ps: torch.optim.AdamW(ps, lr=1e-2, fused=True),
        "NorMuon": lambda ps: NorMuon(ps, lr=1e-2),
        "Muon": lambda ps: Muon(ps, lr=1e-2),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            plain, _ = _trained(make, device, None)
            watched, moved = _trained(make, device, Path(folder) / "trace")
            trace = optgeom.open_trace(Path(folder) / "trace")
            rows = trace.metrics(stages=["update"]).to_pylist()
            recorded = torch.from_numpy(trace.matrix(rows[-1]["step"], "weight").copy())
            yield _check(
                f"{name}: recorded update against what the weights moved by",
                _distance(recorded.double(), moved),
                1e-4,
            )
            spectrum = trace.spectrum(rows[-1]["step"], "weight")
            exact = torch.linalg.svdvals(recorded.double()).numpy()
            yield _check(
                f"{name}: recorded singular values against the recorded update's",
                float(abs(spectrum - exact).max() / exact[0]),
                1e-5,
            )
            yield _check(
                f"{name}: weights that differ from an unwatched run's",
                float((plain != watched).sum()),
                0.0,
            )
            yield _check(
                f"{name}: rows that are not ok",
                float(sum(row["status"] != "ok" for row in rows)),
                0.0,
            )


def _wait_checks(device: torch.device) -> Iterator[dict[str, str]]:
    """How often the training thread waits for the device, beyond what the optimizer does."""
    if device.type != "cuda":
        return
    makers: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "AdamW": lambda ps: torch.optim.AdamW(ps, lr=1e-2),
        "NorMuon": lambda ps: NorMuon(ps, lr=1e-2),
    }
    # of 16-bit weights what rounding held back comes after the samples, when the device is idle
    bounds = {torch.float32: 1.0, torch.bfloat16: 2.0}
    for (name, make), (dtype, bound) in product(makers.items(), bounds.items()):
        layers = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(8)))
        model = layers.to(device, dtype)
        optimizer = make(list(model.parameters()))
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        own = _waits(optimizer.step)
        with tempfile.TemporaryDirectory() as folder:
            settings = {"every": 2, "spectra_every": 1_000_000, "updates_every": 0, "budget": None}
            with optgeom.watch(model, optimizer, Path(folder) / "trace", **settings) as recorder:
                for _ in range(8):  # the ways are known then
                    optimizer.step()
                captured, passed = _waits(optimizer.step), _waits(optimizer.step)
            if recorder.failure is not None:
                raise RuntimeError("the capture failed") from recorder.failure
        what = f"{name}, {str(dtype).removeprefix('torch.')}: waits of a"
        yield _check(f"{what} captured step, 8 matrices", captured - own, bound)
        yield _check(f"{what} step without a capture", passed - own, 0.0)


def _waits(work: Callable[[], object]) -> int:
    """How often this thread waits for its device."""
    found: list[int] = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "called a synchronizing CUDA operation" in str(message):
            found.append(threading.get_ident())

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found.count(threading.get_ident())


def _trained(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], device: torch.device, out: Path | None
) -> tuple[Tensor, Tensor]:
    """Weights after a few steps, and the last step's update from float64 copies of the weights."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(CHECK[1], CHECK[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(CHECK, generator=generator))
    layer = layer.to(device)
    optimizer = make(list(layer.parameters()))
    recorder = None
    if out is not None:
        recorder = optgeom.watch(layer, optimizer, out, every=1, updates_every=1, budget=None)
    moved = torch.zeros(CHECK, dtype=torch.float64)
    for _ in range(5):
        layer.weight.grad = torch.randn(CHECK, generator=generator).to(device)
        before = layer.weight.detach().double().cpu()
        optimizer.step()
        group = optimizer.param_groups[0]
        kept = 1 - group["lr"] * group["weight_decay"]
        moved = (kept * before - layer.weight.detach().double().cpu()) / group["lr"]
    if recorder is not None:
        recorder.close()
        if recorder.failure is not None:
            raise RuntimeError("the capture failed") from recorder.failure
    return layer.weight.detach().cpu(), moved


def _check(what: str, found: float, bound: float) -> dict[str, str]:
    held = "kept" if found <= bound else "MISSED"
    return {"what": what, "found": f"{found:.2g}", "bound": f"{bound:g}", "": held}


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


# -- timings -----------------------------------------------------------------------------------


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step_rows(size: str, device: torch.device, rounds: int) -> list[dict[str, str]]:
    makers: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "adamw, fused": lambda ps: torch.optim.AdamW(ps, lr=1e-3, fused=True),
        "muon": lambda ps: Muon(ps, lr=1e-3),
        "normuon": lambda ps: NorMuon(ps, lr=1e-3),
    }
    optimizers = {}
    for name, make in makers.items():
        params = [
            nn.Parameter(torch.randn(s, device=device, dtype=torch.bfloat16)) for s in _shapes(size)
        ]
        for p in params:
            p.grad = torch.randn_like(p)
        optimizers[name] = make(params)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for i in range(rounds + 3):
        for name, optimizer in optimizers.items():
            took = _seconds(optimizer.step, device)
            if i >= 3:
                seconds[name].append(took)
    base = seconds["adamw, fused"]
    return [
        {
            "model": size,
            "optimizer": name,
            "step, ms": f"{1e3 * statistics.median(took):.2f}",
            "times AdamW's": f"{Interval.of([a / b for a, b in zip(took, base, strict=True)]):.2f}",
        }
        for name, took in seconds.items()
    ]


def _capture_rows(
    size: str, device: torch.device, rounds: int, batch: int
) -> Iterator[dict[str, str]]:
    config = load_config("124m", overrides={"data.sequence": 1024 if size != "tiny" else 32})
    length = config.data.sequence
    for name in ("adamw", "normuon"):
        model = build_model(SIZES[size], length=length, seed=0).to(device)
        settings = load_config("124m", overrides={"optimizer.name": name}).optimizer
        optimizer = build_optimizer(model, settings)
        tokens = torch.randint(0, SIZES[size].vocab_size, (batch, length + 1), device=device)

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            tokens: Tensor = tokens,
        ) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        for _ in range(3):
            step()
        with (
            tempfile.TemporaryDirectory() as folder,
            optgeom.watch(
                model,
                optimizer,
                Path(folder) / "trace",
                every=2,
                spectra_every=1_000_000,
                updates_every=0,
                budget=None,
            ) as recorder,
        ):
            for _ in range(6):
                step()
            seconds = [_seconds(step, device) for _ in range(2 * rounds + 1)]
            if recorder.failure is not None:
                raise RuntimeError("the capture failed") from recorder.failure
        quiet = statistics.median(seconds[1::2])
        differences = added(seconds, [i % 2 == 0 for i in range(len(seconds))])
        yield {
            "model": size,
            "optimizer": name,
            "step, ms": f"{1e3 * quiet:.1f}",
            "added, %": f"{Interval.of([100 * d / quiet for d in differences]):.1f}",
        }


def _analysis_row(shape: tuple[int, int], device: torch.device) -> dict[str, str]:
    matrix = torch.randn(shape, device=device)
    on_host = matrix.cpu()

    def median(work: Callable[[], object], where: torch.device) -> str:
        return f"{1e3 * statistics.median(_seconds(work, where) for _ in range(7)):.2f}"

    host = torch.device("cpu")
    return {
        "matrix": " x ".join(map(str, shape)),
        "norms, ms": median(lambda: measure_norms(matrix), device),
        "spectrum, ms": median(lambda: measure_spectrum(matrix), device),
        "spectrum on the CPU, ms": median(lambda: measure_spectrum(on_host), host),
    }


if __name__ == "__main__":
    main()
