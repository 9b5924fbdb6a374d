"""The optimizer's step alone, captured and not: what a change of the capture's code is worth.

Without forward and backward the capture is most of what is timed, and the ratio of a captured step
to an uncaptured one drifts less with the machine than either. ``--sources`` takes folders of code
to compare, such as ``src`` of another checkout: each round runs all, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs import Job
from methods import OURS
from timing import Interval, Number, json_option, machine, prepare, table, write_json

import optgeom

METHOD = "optgeom: norms and CV"
WARM_UP = 8


def measure(optimizer: str, steps: int) -> tuple[float, float]:
    """Milliseconds of a captured and of an uncaptured step of the job `small`, medians.

    Args:
        optimizer: as of `jobs.Job`.
        steps: that are timed, every second one captured.
    """
    prepare()
    job, method = Job("small", optimizer), OURS[METHOD]()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        job.backward()  # the gradients stay
        job.apply()
        method.attach(job, Path(folder) / "trace")
        for _ in range(WARM_UP + steps):
            started = time.perf_counter()
            job.apply()
            seconds.append(time.perf_counter() - started)
        method.close()
    timed = seconds[WARM_UP:]
    return 1e3 * statistics.median(timed[::2]), 1e3 * statistics.median(timed[1::2])


def _check_source() -> None:
    """A folder without the package would leave the installed one to be imported."""
    wanted, found = Path(os.environ["PYTHONPATH"]), Path(optgeom.__file__).parent.parent
    if found != wanted:
        raise SystemExit(
            f"--sources takes folders that hold optgeom; for {wanted} it is in {found}"
        )


def rows(found: dict[str, list[tuple[float, float]]]) -> list[dict[str, str]]:
    """Lines of the table, one per source; each holds a pair of every round."""
    lines = []
    for source, pairs in found.items():
        ratio = Interval.of([captured / plain for captured, plain in pairs])
        plain = statistics.median(plain for _, plain in pairs)
        lines.append(
            {
                "source": source,
                "uncaptured, ms": Number(plain, ".1f"),
                "captured / uncaptured": f"{ratio:.2f}",
            }
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", default="adamw", help="(%(default)s)")
    parser.add_argument("--sources", nargs="+", type=Path, help="(the code that is installed)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    json_option(parser)
    given = parser.parse_args()
    if given.once:
        _check_source()
        print(json.dumps(measure(given.optimizer, given.steps)))
        return
    print(machine())
    sources = given.sources or [Path(__file__).parent.parent / "src"]
    sources = [source.resolve() for source in sources]
    command = [sys.executable, __file__, "--once", "--optimizer", given.optimizer]
    found: dict[str, list[tuple[float, float]]] = {str(source): [] for source in sources}
    for _ in range(given.rounds):
        for source in sources:
            done = subprocess.run(
                [*command, "--steps", str(given.steps)],
                env=os.environ | {"PYTHONPATH": str(source)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            captured, plain = json.loads(done.stdout.splitlines()[-1])
            found[str(source)].append((captured, plain))
    print(f"{given.optimizer}, job small, the optimizer's step alone")
    lines = rows(found)
    print(table(lines))
    write_json(given.json, lines)


if __name__ == "__main__":
    main()
