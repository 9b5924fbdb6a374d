"""Break captured runs in every way, and say what was left: `make faults`.

A fault that fails is tried again by its name and seed: --only NAME --seed N --tries 1.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.faults import FAULTS, Fault
from tests.faults.flips import main as flips
from tests.faults.victim import Reference, reference


def tries(name: str, count: int, seed: int, folder: Path, known: Reference) -> int:
    """Try one fault again and again; returns how often it failed."""
    fault: Fault = FAULTS[name][0]
    failed, seen, started = 0, Counter[str](), time.monotonic()
    for number in range(seed, seed + count):
        place = folder / f"{fault.__name__}-{number}"
        try:
            seen[attempt(fault, place, number, known)] += 1
        except Exception:  # noqa: BLE001  whatever it is, the others are tried too
            failed += 1
            print(f"FAILED: --only {name!r} --seed {number} --tries 1; its trace is {place}")
            traceback.print_exc(file=sys.stdout)
    took = time.monotonic() - started
    print(f"{name}: {count - failed} of {count} held ({took:.0f} s)")
    for words, times in seen.most_common(4):
        print(f"    {times} x {words}")
    sys.stdout.flush()
    return failed


def attempt(fault: Fault, place: Path, seed: int, known: Reference) -> str:
    """One try, in a folder that is removed unless it fails."""
    place.mkdir()
    found = fault(place, random.Random(seed), known)
    shutil.rmtree(place)
    return found


def main() -> int:
    """Try all faults; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[*FAULTS, "flips"])
    parser.add_argument("--short", action="store_true", help="a few tries of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, help="of each, instead of its own number")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="optgeom-faults-"))
    folder.chmod(0o755)
    known = reference(folder / "undisturbed")
    failed = 0
    for name, (_, full, short) in FAULTS.items():
        if given.only in (None, name):
            count = given.tries or (short if given.short else full)
            failed += tries(name, count, given.seed, folder, known)
    if given.only in (None, "flips"):
        failed += flips(full=not given.short)
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
