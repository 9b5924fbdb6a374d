"""Every benchmark in one go, and what came of it in one table: ``make bench``.

Runs the other scripts one after another, each in a process of its own that is ended after three
times its usual time, and writes under ``benchmarks/results/bench/`` one JSON file for each and
``summary.md``, which it puts into docs/benchmarks.md too. What is there of the same code, machine
and settings is not run again, so a bench that was cut off goes on where it was. Exit code 1:
something failed, and its row says why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from parts import BIG_RUNS, FAST_BFLOAT16, PARTS, Part
from peers import COCKPIT, ENVIRONMENT, ROOT, interpreter
from summary import failures, put, summary
from timing import BFLOAT16, UNMEASURED, facts, git

RESULTS = ROOT / "benchmarks" / "results" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
WORK = ROOT / "runs"
"""Where the parts' own folders are made, and removed after."""
TINY = WORK / "bench-quick"
"""Where results of --quick go: they say nothing, and replace none."""
BIG = ROOT / "runs" / "big"
"""The dashboard's folder: ten minutes to write, 6 GB, kept."""

PASSING = ("date", "commit", "load")
"""Of the facts: what a result does not depend on; the code is known by its contents."""

TOOLS = ("wandb", "tensorboard", "nvdlfw-inspect", "weightwatcher", "safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for, and write the table."""
    given = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part at work ends too
    given.results.mkdir(parents=True, exist_ok=True)
    names = [name for name in PARTS if name in given.only]
    if any(PARTS[name].peers for name in names):
        command = [sys.executable, str(Path(__file__).with_name("peers.py")), "--missing"]
        subprocess.run(command, check=False)  # rows that lack an environment say so
    started = time.monotonic()
    for at, name in enumerate(names, 1):
        left = sum(PARTS[one].minutes for one in names[at - 1 :])
        about = "" if given.quick else f", about {left:.0f} minutes left"
        spent = (time.monotonic() - started) / 60
        print(f"\n## [{at}/{len(names)}] {name} ({spent:.0f} min so far{about})", flush=True)
        print(one_part(name, given), flush=True)
        results = write(given.results, given.page)  # each time, for what may be cut off
    print(f"\n{summary(results)}\n\nwritten to {given.results / 'summary.md'}")
    failed = failures(results, names)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(bool(failed))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only whether it works")
    parser.add_argument("--fresh", action="store_true", help="run again what is there")
    parser.add_argument(
        "--results",
        type=Path,
        help="where (benchmarks/results/bench; runs/bench-quick with --quick)",
    )
    parser.add_argument(
        "--page", type=Path, help="to hold the table (docs/benchmarks.md, where results are there)"
    )
    given = parser.parse_args(arguments)
    given.results = given.results or (TINY if given.quick else RESULTS)
    # a page of the documentation says what its own results say, and no others
    given.page = given.page or (PAGE if given.results.resolve() == RESULTS else None)
    there = {"": True, FAST_BFLOAT16: BFLOAT16, BIG_RUNS: any(BIG.rglob("run.json"))}
    given.only = given.only or [name for name, part in PARTS.items() if there[part.needs]]
    if given.quick:
        full = [name for name, one in read(given.results).items() if not one["quick"]]
        if lost := sorted(set(full) & set(given.only)):
            parser.error(
                f"{given.results} holds full results of {', '.join(lost)}, which --quick would "
                "replace by meaningless ones: give another folder, --results FOLDER"
            )
    return given


def read(folder: Path) -> dict[str, Any]:
    """What a folder holds of each part."""
    files = {name: folder / f"{name}.json" for name in PARTS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name, file in files.items()
        if file.exists()
    }


def write(folder: Path, page: Path | None) -> dict[str, Any]:
    """Make the table of what a folder holds, beside it and in a page; returns what it holds."""
    results = read(folder)
    text = summary(results)
    (folder / "summary.md").write_text(text + "\n", encoding="utf-8")
    if page is not None:
        page.write_text(put(text, page.read_text(encoding="utf-8")), encoding="utf-8")
    return results


def one_part(name: str, given: argparse.Namespace) -> str:
    """Run a part, unless it is there, and write its file; returns a line of what came of it."""
    part, file = PARTS[name], given.results / f"{name}.json"
    key = key_of(part, quick=given.quick)
    before = read(given.results).get(name)
    if before and before["key"] == key and not before["failed"] and not given.fresh:
        return "(there already, of the same code, machine and settings; --fresh runs it again)"
    found: dict[str, Any] = {"part": name, "quick": given.quick, "key": key}
    WORK.mkdir(exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=WORK, prefix="bench-", ignore_cleanup_errors=True) as work:
        failed, result = run(part, Path(work), quick=given.quick)
    found |= {
        "seconds": round(time.monotonic() - began, 1),
        "machine": facts(),
        "tools": versions() if part.peers else {},
        "failed": failed,
        "result": result,
    }
    text = json.dumps(found, indent=1).replace(f"{ROOT}{os.sep}", "")
    file.write_text(text + "\n", encoding="utf-8")
    return f"(failed: {failed})" if failed else f"({found['seconds']:.0f} s)"


def key_of(part: Part, *, quick: bool) -> str:
    """What a result depends on: the code as it is now, the machine, the settings."""
    # contents, not the commit: a change of the documentation makes nothing run again
    tracked = git("ls-files", "--stage", "--", ":/", *UNMEASURED)
    changes = git("diff", "--", ":/", *UNMEASURED)
    depends: list[Any] = [tracked or str(time.time_ns()), changes, part.script]
    depends += [part.quick if quick else part.full, versions() if part.peers else {}]
    depends += [{name: fact for name, fact in facts().items() if name not in PASSING}]
    return hashlib.blake2b(json.dumps(depends).encode(), digest_size=8).hexdigest()


def run(part: Part, folder: Path, *, quick: bool) -> tuple[str | None, Mapping[str, Any] | None]:
    """Run a script; returns why it failed, or None, and what it wrote."""
    python = interpreter(ENVIRONMENT) if part.python else Path(sys.executable)
    if not python.exists():
        return "no environment .venv/peers: python benchmarks/peers.py says why", None
    places = {"FOLDER": str(folder / "folder"), "BIG": str(BIG)}
    words = [places.get(word, word) for word in (part.quick if quick else part.full)]
    into = folder / "result.json"
    script = str(Path(__file__).parent / part.script)
    limit = part.limit(quick=quick)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(python), script, *words, "--json", str(into)],
            stderr=errors,
            start_new_session=True,  # so that what it started ends with it
            env=os.environ | ({"OMP_THREAD_LIMIT": "1"} if quick else {}),
        )
        late = False
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            end(process)
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if late:
        return f"no result within {limit / 60:.0f} minutes", None
    if process.returncode or not into.exists():
        return f"{said[-1] if said else 'no message'} (exit code {process.returncode})", None
    return None, json.loads(into.read_text(encoding="utf-8"))


def end(process: subprocess.Popen[Any]) -> None:
    """End a script and all that it started."""
    with suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def versions() -> dict[str, str]:
    """Of the peers, as they are installed in their environments."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "named = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "known = {name.replace('_', '-'): version for name, version in named.items()}\n"
        "print(json.dumps({n: known[n] for n in sys.argv[1:] if n in known}))"
    )
    found: dict[str, str] = {}
    for where, names in ((ENVIRONMENT, TOOLS), (COCKPIT, ("cockpit-for-pytorch",))):
        if interpreter(where).exists():
            command = [str(interpreter(where)), "-c", code, *names]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found |= json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
