"""Peak extra memory of a captured step from 10 to 300 million parameters, beside a snapshot's.

Each case runs in a process of its own, on a chain of equal 1024 x 1024 matrices. What is printed
is the peak of the resident memory during a captured step (until its spectra are measured and
written) minus the peak during an unwatched step of the same process, in MiB.

The kernel keeps the peak (VmHWM) and forgets it on request (/proc/self/clear_refs). malloc is
told to map every block above 64 KiB by itself and to give it back at once, so that what is
resident is what is alive.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from memory_case import METHODS, OPTIMIZERS
from timing import CaseFailed, Number, in_process, json_option, machine, table, write_json

SIDE = 1024
PARAMETERS = (10, 30, 100, 300)
"""Millions."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""For glibc, in the measured processes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", nargs="+", type=int, default=list(PARAMETERS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--side", type=int, default=SIDE, help="of a matrix (%(default)s)")
    json_option(parser)
    given = parser.parse_args(arguments)
    print(f"{machine()}\n\n### Peak extra memory of a captured step, MiB\n")
    rows = []
    for optimizer in given.optimizers:
        for method in given.methods:
            row = {"optimizer": optimizer, "captured": method}
            for millions in given.millions:
                row[f"{millions} M"] = _extra(millions, optimizer, method, given.side)
            rows.append(row)
    print(table(rows))
    write_json(given.json, {"memory": rows})


def _extra(millions: int, optimizer: str, method: str, side: int) -> str:
    arguments: dict[str, Any] = {
        "millions": millions,
        "optimizer": optimizer,
        "method": method,
        "side": side,
    }
    try:
        result = in_process("memory_case.py", arguments, environment=ALLOCATOR)
    except CaseFailed as error:
        return f"failed: {error}"
    return Number(result["extra"], ".0f")


if __name__ == "__main__":
    main()
