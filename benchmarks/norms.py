"""What the geometry kernels cost: rows of the norms clock, and spectra, of a small GPT's matrices.

Times each kernel on every matrix of the `small` job, interleaved, and takes each matrix's fastest
call: on a shared machine the sum of these is what a free one would need. Ratios are to one plain
read of the same bytes, and for spectra to the bare kernel, a float64 Gram matrix and `eigvalsh`.

Spectra are measured with one thread, as the background measures them. Run as
``python benchmarks/norms.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jobs import Job
from timing import Number, json_option, machine, prepare, table, write_json
from torch import Tensor

from optgeom.geometry import Context, finish_norms, measure_spectrum, norms_pass

ROUNDS = 60
SPECTRUM_ROUNDS = 8
LR, DECAY = 1e-3, 1e-4

Case = tuple[Tensor, Tensor, Tensor, Tensor]
"""An update, the weight after it, the gradient, the sketch of the update before."""


def cases() -> list[Case]:
    """Every matrix of the job, with random updates and gradients."""
    torch.manual_seed(0)
    found = []
    for weight in Job("small", "adamw").matrices:
        update, gradient, before = torch.randn(3, *weight.shape)
        sketch = norms_pass(before).sketch
        assert sketch is not None
        found.append((update, weight.detach(), gradient, sketch))
    return found


def context(case: Case, **chosen: Any) -> Context:
    """What the capture knows of an update."""
    _, weight, gradient, sketch = case
    known = {"weight_after": weight, "gradient": gradient, "previous_sketch": sketch}
    return Context(lr=LR, decay=DECAY, steps_since_previous=1, **(known | chosen))


def bare_spectrum(case: Case) -> Tensor:
    """Singular values and nothing else."""
    wide = case[0].double()
    product = wide @ wide.mT if wide.shape[0] <= wide.shape[1] else wide.mT @ wide
    return torch.linalg.eigvalsh(product).clamp_min(0.0).sqrt()


def fastest(
    kernels: dict[str, Callable[[Case], Any]], inputs: Sequence[Case], rounds: int
) -> dict[str, float]:
    """Milliseconds of each kernel for all matrices, each matrix at its fastest."""
    best = {name: [float("inf")] * len(inputs) for name in kernels}
    for _ in range(rounds):
        for name, kernel in kernels.items():
            for i, case in enumerate(inputs):
                started = time.perf_counter()
                kernel(case)
                best[name][i] = min(best[name][i], time.perf_counter() - started)
    return {name: 1e3 * sum(times) for name, times in best.items()}


def finishing(inputs: Sequence[Case], rounds: int) -> float:
    """Milliseconds of `finish_norms` for all matrices together, at its fastest."""
    partials = [norms_pass(case[0], context(case)) for case in inputs]
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        finish_norms(partials)
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def rows(found: dict[str, float], base: str) -> list[dict[str, str]]:
    """Lines of a table, against one of them."""
    return [
        {"kernel": name, "ms": Number(ms, ".2f"), f"x {base}": Number(ms / found[base], ".2f")}
        for name, ms in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the norms (%(default)s)")
    parser.add_argument(
        "--spectrum-rounds", type=int, default=SPECTRUM_ROUNDS, help="(%(default)s)"
    )
    json_option(parser)
    given = parser.parse_args()
    prepare()
    print(machine())
    inputs = cases()
    norms = fastest(
        {
            "one read": lambda case: [tensor.sum() for tensor in case[:3]],
            "norms_pass": lambda case: norms_pass(case[0], context(case)),
            "without weight": lambda case: norms_pass(case[0], context(case, weight_after=None)),
            "without weight and gradient": lambda case: norms_pass(
                case[0], context(case, weight_after=None, gradient=None)
            ),
            "rows_only": lambda case: norms_pass(case[0], context(case, rows_only=True)),
        },
        inputs,
        given.rounds,
    )
    norms["finish_norms"] = finishing(inputs, given.rounds)
    torch.set_num_threads(1)
    spectra = fastest(
        {
            "bare kernel": bare_spectrum,
            "measure_spectrum": lambda case: measure_spectrum(case[0], context(case)),
            "with the gradient's nuclear norm": lambda case: measure_spectrum(
                case[0], context(case, gradient_nuclear_norm=1.0)
            ),
        },
        inputs,
        given.spectrum_rounds,
    )
    entries = sum(case[0].numel() for case in inputs)
    print(f"{len(inputs)} matrices, {entries} entries, float32; spectra with one thread")
    tables = {"norms": rows(norms, "one read"), "spectra": rows(spectra, "bare kernel")}
    for found in tables.values():
        print(table(found))
    write_json(given.json, tables)


if __name__ == "__main__":
    main()
