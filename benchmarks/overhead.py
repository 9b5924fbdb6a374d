"""Step time with watching over step time without, for ours and for what people use today.

Each case runs in a process of its own and prints one row of a Markdown table: captured against
neighbouring uncaptured steps (``--tables steps``), the share of whole runs (``runs``), and the
peers (``peers``; make their environment first: ``python benchmarks/peers.py``). How it is measured
and what the columns mean: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import OPTIMIZERS, SIZES
from limits import LIMITS
from methods import BY_HAND, OURS
from peers import ENVIRONMENT, PEERS, environment_of, interpreter
from timing import (
    CaseFailed,
    Interval,
    calibrated,
    in_process,
    json_option,
    machine,
    table,
    write_json,
)

RUNS: Mapping[str, dict[str, Any]] = {
    "the defaults": {},
    "every=10, budget=0.01": {"every": 10, "budget": 0.01},
}
"""Settings of whole runs; the second asks for more than the budget buys."""

ALL = [*OURS, *BY_HAND, *PEERS]

TABLES = ("steps", "runs", "peers")


KEPT_HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""For glibc, in the measured processes: pages stay, which else are fetched anew at every step, and
on a virtual machine take longer than what is measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    tables: Sequence[str]
    job: str
    optimizers: Sequence[str]
    methods: Sequence[str]
    settings: Sequence[str]
    pairs: int
    sessions: int
    blocks: int
    environment: Path


@dataclass(frozen=True, slots=True)
class Row:
    """A printed row and the result behind it, or why there is none."""

    cells: Mapping[str, str]
    result: Mapping[str, Any] | None
    failed: str | None = None


def step_rows(options: Options, optimizers: Sequence[str], methods: Sequence[str]) -> Iterator[Row]:
    """One row per optimizer and method."""
    for optimizer in optimizers:
        for method in methods:
            if method in options.methods:
                where = environment_of(method, options.environment)
                python = interpreter(where) if method in PEERS else Path(sys.executable)
                yield row_of(options, optimizer, method, python)


def row_of(options: Options, optimizer: str, method: str, python: Path) -> Row:
    """Measure one method on one optimizer."""
    cells = {"optimizer": optimizer, "what": method}
    arguments = {
        "size": options.job,
        "optimizer": optimizer,
        "method": method,
        "pairs": options.pairs,
        "sessions": options.sessions,
    }
    columns = (
        "step, ms",
        "added, %",
        "uncaptured beside, %",
        "background CPU, %",
        "missing",
        "bar",
    )
    try:
        result = in_process("paired.py", arguments, python=python, environment=KEPT_HEAP)
    except CaseFailed as error:
        said = f"failed: {error}"
        return Row(cells | dict.fromkeys(columns, "") | {"added, %": said}, None, str(error))
    added, beside = Interval(**result["added"]), Interval(**result["beside"])
    missing = result["missing"]
    values = (
        f"{result['step_ms']:.0f}",
        f"{added:.1f}",
        f"{beside.median:+.1f}",
        f"{result['background']:.1f}",
        "" if missing is None else str(missing),
        _bar(options.job, optimizer, method, added.median, beside.median),
    )
    return Row(cells | dict(zip(columns, values, strict=True)), result)


def _bar(job: str, optimizer: str, method: str, added: float, beside: float) -> str:
    """What is written in the background is paid for by the step after, too."""
    raw = method == "optgeom: raw matrices"
    if job != "small" or not (raw or method == "optgeom: norms and CV"):
        return ""
    if raw and optimizer != "adamw":
        return ""
    bar = LIMITS["step, raw"] if raw else LIMITS[f"step, {optimizer}"]
    return f"{bar.value:g} %: {'kept' if bar.keeps(added + 2 * beside * raw) else 'missed'}"


def run_row(options: Options, optimizer: str, name: str) -> Row:
    """Measure the share of one whole run."""
    cells = {"optimizer": optimizer, "settings": name}
    columns = (
        "step, ms",
        "steps",
        "wall, %",
        "counted, %",
        "recorded, %",
        "spectra",
        "of what the budget buys, %",
        "longest / mean wait",
        "bars",
    )
    arguments = {
        "size": options.job,
        "optimizer": optimizer,
        "settings": RUNS[name],
        "blocks": options.blocks,
    }
    try:
        result = in_process("whole_run.py", arguments, timeout=4 * 3600)
    except CaseFailed as error:
        said = f"failed: {error}"
        return Row(cells | dict.fromkeys(columns, "") | {"wall, %": said}, None, str(error))
    wall = Interval(**result["wall"])
    bars = (
        LIMITS["run, time"].keeps(max(wall.median, result["counted"])),
        LIMITS["run, bought"].keeps(result["of_affordable"]),
        result["longest_wait"] <= LIMITS["run, waits"].value * result["mean_wait"],
    )
    values = (
        f"{result['step_ms']:.0f}",
        str(result["steps"]),
        f"{wall:.2f}",
        f"{result['counted']:.2f}",
        f"{result['recorded']:.2f}",
        f"{result['spectra']} of {result['layers']} layers",
        f"{result['of_affordable']:.0f}",
        f"{result['longest_wait']} / {result['mean_wait']:.0f}",
        ", ".join("kept" if held else "missed" for held in bars) if options.job == "small" else "",
    )
    return Row(cells | dict(zip(columns, values, strict=True)), result)


def report(title: str, rows: Iterator[Row]) -> list[Row]:
    """Print a table as soon as it is measured."""
    done = list(rows)
    if not done:
        return []
    print(f"\n### {title}\n")
    print(table([row.cells for row in done]))
    print(f"\n{calibrated(loops(done))}", flush=True)
    return done


def loops(rows: Sequence[Row]) -> list[float]:
    """The calibration of all cases."""
    return [g for row in rows if row.result is not None for g in row.result["gflops"]]


def numbers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is behind the rows, but for the calibration."""
    found = [{**row.cells, **(row.result or {"failed": row.failed})} for row in rows]
    return [{name: value for name, value in row.items() if name != "gflops"} for row in found]


def parse(arguments: Sequence[str] | None = None) -> tuple[Options, Path | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["steps", "runs"])
    parser.add_argument("--job", choices=sorted(SIZES), default="small", help="(%(default)s)")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument(
        "--methods", nargs="+", choices=ALL, default=ALL, metavar="NAME", help="rows of the tables"
    )
    parser.add_argument("--pairs", type=int, default=40, help="captured steps (%(default)s)")
    parser.add_argument("--sessions", type=int, default=5, help="times attached (%(default)s)")
    parser.add_argument(
        "--blocks", type=int, default=31, help="pairs of blocks of 50 steps (%(default)s)"
    )
    parser.add_argument(
        "--environment", type=Path, default=ENVIRONMENT, help="of the peers (%(default)s)"
    )
    parser.add_argument(
        "--settings", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help="of runs"
    )
    json_option(parser)
    given = parser.parse_args(arguments)
    options = Options(
        tables=given.tables,
        job=given.job,
        optimizers=given.optimizers,
        methods=given.methods,
        settings=given.settings,
        pairs=given.pairs,
        sessions=given.sessions,
        blocks=given.blocks,
        environment=given.environment,
    )
    if "peers" in options.tables and not interpreter(options.environment).exists():
        parser.error(
            f"no environment at {options.environment}: make it with python benchmarks/peers.py"
        )
    return options, given.json


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    options, into = parse(arguments)
    print(f"{machine()}; job {options.job}")
    first = options.optimizers[:1]  # what looks at weights and gradients costs the same under any
    results: dict[str, list[Row]] = {}
    if "steps" in options.tables:
        results["steps"] = report(
            "Captured steps", step_rows(options, options.optimizers, list(OURS))
        ) + report("By hand", step_rows(options, first, list(BY_HAND)))
    if "runs" in options.tables:
        results["runs"] = report(
            "Whole runs",
            (
                run_row(options, optimizer, name)
                for optimizer in options.optimizers
                for name in options.settings
            ),
        )
    if "peers" in options.tables:
        results["peers"] = report("Peers", step_rows(options, first, list(PEERS)))
    everything = [row for rows in results.values() for row in rows]
    write_json(into, {name: numbers(rows) for name, rows in results.items()}, loops(everything))


if __name__ == "__main__":
    main()
