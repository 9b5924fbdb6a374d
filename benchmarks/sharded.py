"""Optimizer steps on several ranks: time, bytes on the wire, memory.

NorMuon, Muon and AdamW on matrices that `fully_shard` has cut, and NorMuon as it is written without
dealing: every rank gathers and orthogonalizes everything. How it is measured: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharded_case import SHAPES, WAYS
from timing import CaseFailed, Interval, Number, json_option, machine, table, write_json

COLUMNS = (
    "step, ms",
    "times Muon's",
    "bytes sent per weight",
    "state, numbers per weight",
    "extra memory, MiB",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=15, help="of one step each way (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    json_option(parser)
    given = parser.parse_args(arguments)
    print(machine(), end="\n\n")
    rows = []
    for shapes in given.shapes:
        for world in given.ranks:
            rows += run_rows(shapes, world, given.rounds, given.device)
    print(table(rows))
    write_json(given.json, {"steps": rows})


def run_rows(shapes: str, world: int, rounds: int, device: str) -> list[dict[str, str]]:
    """One row per optimizer, of one set of shapes on that many ranks."""
    named = {"shapes": shapes, "ranks": str(world)}
    try:
        ranks = run_ranks(world, {"shapes": shapes, "rounds": rounds, "device": device})
    except CaseFailed as error:
        return [named | {"optimizer": f"failed: {error}"} | dict.fromkeys(COLUMNS, "")]
    rows = []
    weights = ranks[0]["weights"]
    for way in WAYS:
        # a step is over when the last rank has made it
        steps = [max(each) for each in zip(*(r[way]["seconds"] for r in ranks), strict=True)]
        base = [max(each) for each in zip(*(r["muon"]["seconds"] for r in ranks), strict=True)]
        ratio = Interval.of([a / b for a, b in zip(steps, base, strict=True)])
        state = sum(r[way]["state"] for r in ranks)
        rows.append(
            named
            | {
                "optimizer": way,
                "step, ms": Number(1e3 * statistics.median(steps), ".1f"),
                "times Muon's": Number(ratio, ".2f"),
                "bytes sent per weight": Number(
                    sum(r[way]["bytes"] for r in ranks) / weights, ".2f"
                ),
                "state, numbers per weight": Number(state / weights, ".3f"),
                "extra memory, MiB": Number(max(r[way]["extra"] for r in ranks) / 2**20, ".0f"),
            }
        )
    return rows


def run_ranks(
    world: int, arguments: dict[str, Any], timeout: float = 900.0
) -> list[dict[str, Any]]:
    """Run one case on that many ranks, and return what each found.

    Raises:
        CaseFailed: one of them failed, with its last line.
    """
    script = Path(__file__).with_name("sharded_case.py")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), json.dumps(arguments), folder, str(rank), str(world)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            outputs = [process.communicate(timeout=timeout) for process in processes]
        except subprocess.TimeoutExpired as error:
            raise CaseFailed(f"no result after {timeout:.0f} s") from error
        finally:
            for process in processes:
                process.kill()
        for process, (_, errors) in zip(processes, outputs, strict=True):
            if process.returncode:
                raise CaseFailed((errors.strip().splitlines() or ["no message"])[-1])
        return [json.loads(out.strip().splitlines()[-1]) for out, _ in outputs]


if __name__ == "__main__":
    main()
