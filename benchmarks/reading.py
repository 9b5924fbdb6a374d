"""What reading a folder of long runs takes, in a process that does nothing else.

Asks what a page asks: columns of all layers and steps, lists of one layer, what is new. Times are
the median of single calls, and the longest; nothing is asked twice unless a line says so. Write the
folder with ``python benchmarks/big_runs.py FOLDER``, then ``python benchmarks/reading.py FOLDER``.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.store import Trace, open_traces

METRICS = ("neuron_norm_cv", "neuron_norm_max_min", "update_rms", "frobenius_norm", "lr")
SPECTRA = ("condition_number", "stable_rank", "effective_rank", "spectral_norm", "noise_floor")
WORDS = ("status", "source", "spectrum_status")
LAYERS = 50
"""Whose lists are read."""


def megabytes(field: str = "VmRSS") -> float:
    """What the process holds, or with VmHWM has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def spread(times: Sequence[float]) -> str:
    """The median, and the longest."""
    return f"{np.median(times):.1f} ({max(times):.1f})"


def columns(runs: Sequence[Trace]) -> dict[str, str]:
    """Grids of ten columns of all runs, and what else is asked of the whole of a run."""
    first = [timed(partial(run.grid, METRICS[0])) for run in runs]

    def each(names: Sequence[str]) -> str:
        return spread([timed(partial(run.grid, name)) for name in names for run in runs])

    words = [timed(partial(run.words, name)) for name in WORDS for run in runs]
    return {
        "first grid of a run": spread(first),
        "first grids of two runs together": f"{sum(first[:2]):.1f}",
        "further grid, of metrics": each(METRICS[1:]),
        "further grid, of spectra and an analysis": each(SPECTRA),
        "the last of them again": each(SPECTRA[-1:]),
        "grid of words": spread(words),
        "last step": spread([timed(lambda run=run: run.last_step) for run in runs]),
        "steps of one layer": spread(
            [timed(partial(run.steps, run.layers[0].name)) for run in runs]
        ),
        "losses": spread([timed(partial(run.scalars, "loss")) for run in runs]),
        "memory after ten columns of all runs, MB": f"{megabytes():.0f}",
    }


def lists(runs: Sequence[Trace]) -> dict[str, str]:
    """Neuron norms and singular values of LAYERS layers, each of one of the runs in turn."""
    names = [layer.name for layer in runs[0].layers]
    chosen = names[:: max(1, len(names) // LAYERS)][:LAYERS]
    index = [timed(partial(run.steps, names[0], table="neurons")) for run in runs]
    cold, again, one, all_spectra = [], [], [], []
    for at, name in enumerate(chosen):
        run = runs[at % len(runs)]
        cold.append(timed(partial(run.neurons, name)))
        again.append(timed(partial(run.neurons, name)))
        last = int(run.steps(name, table="spectra")[-1])
        one.append(timed(partial(run.spectrum, last, name)))
        all_spectra.append(timed(partial(run.spectra, name)))
    return {
        "first look for neuron norms in a run": spread(index),
        "one layer's neuron norms at all captures": spread(cold),
        "the same again": spread(again),
        "one spectrum": spread(one),
        "one layer's spectra at all captures": spread(all_spectra),
        f"memory after lists of {len(chosen)} layers, MB": f"{megabytes():.0f}",
    }


def main() -> None:
    """Read a folder and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = {"memory of the imports, MB": f"{megabytes():.0f}"}
    started = time.perf_counter()
    traces = open_traces(folder)
    found["opening the folder"] = f"{1e3 * (time.perf_counter() - started):.1f}"
    runs = list(traces.values())
    found |= columns(runs)
    found |= lists(runs)
    found["refresh of a run with nothing new"] = spread([timed(run.refresh) for run in runs])
    found["refresh of the folder with nothing new"] = spread([timed(traces.refresh)])
    found["memory at the end, MB; at most"] = f"{megabytes():.0f}; {megabytes('VmHWM'):.0f}"
    print(f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}")
    print("| milliseconds, median (longest) | |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
