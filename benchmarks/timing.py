"""How the benchmarks measure: paired differences, calibration, background CPU, the machine, tables.

Cells keep the numbers that they print, so that `--json FILE` writes what the Markdown shows.

Nothing here knows what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

THREADS = 2
"""Of torch, in every benchmark."""

BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether the processor multiplies bfloat16; where it is emulated a product takes a hundred times
as long as in float32 (a matrix of 768 x 768 on an AMD EPYC with AVX2 and no more)."""

NS_DTYPE = "bfloat16" if BFLOAT16 else "float32"
"""What Newton-Schulz iterates in, here: nobody waits for an emulation."""


def prepare() -> None:
    """Two threads, and no denormals: AdamW on a CPU is many times slower with them."""
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the bootstrap's 95 % interval of it."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, draws: int = 2000) -> Interval:
        """The median of what was measured; resampled with a fixed seed.

        Args:
            values: at least one.
            draws: of the bootstrap.
        """
        array = np.asarray(values, np.float64)
        picked = np.random.default_rng(0).integers(0, len(array), (draws, len(array)))
        low, high = np.quantile(np.median(array[picked], axis=1), (0.025, 0.975))
        return cls(float(np.median(array)), float(low), float(high), len(array))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def unbroken(text: str) -> str:
    """The same with spaces at which a narrow column does not break it."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def added(seconds: Sequence[float], captured: Sequence[bool]) -> list[float]:
    """Each captured step minus the mean of the uncaptured steps before and after it.

    Args:
        seconds: of consecutive steps.
        captured: which of them did more; those without two uncaptured neighbours are left out.

    >>> added([1.0, 5.0, 3.0, 6.0], [False, True, False, True])
    [3.0]
    """
    return [
        seconds[i] - (seconds[i - 1] + seconds[i + 1]) / 2
        for i in range(1, len(seconds) - 1)
        if captured[i] and not captured[i - 1] and not captured[i + 1]
    ]


class Calibration:
    """A fixed loop of matrix products: how fast the machine is now."""

    SIDE = 512
    ROUNDS = 12

    def __init__(self) -> None:
        self._a = torch.ones(self.SIDE, self.SIDE)
        self._out = torch.empty_like(self._a)
        self.gflops: list[float] = []
        self._now = time.perf_counter  # a benchmark may stop the clock that others read

    def run(self) -> None:
        """Time the loop once more (about 20 ms)."""
        started = self._now()
        for _ in range(self.ROUNDS):
            torch.mm(self._a, self._a, out=self._out)
        took = self._now() - started
        self.gflops.append(2 * self.SIDE**3 * self.ROUNDS / took / 1e9)


class Background:
    """CPU seconds of threads and child processes that did not exist when this was made.

    Made after the job has warmed up, it counts what an instrument runs beside the training
    threads: its own threads, theirs, and services such as wandb's.
    """

    def __init__(self) -> None:
        self._threads = set(self._now())
        self._children = set(_children(os.getpid()))
        self._seen: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """So far; a thread that has ended counts as it was when last looked at."""
        self._seen |= {k: v for k, v in self._now().items() if k not in self._threads}
        children = {p: _process_cpu(p) for p in _children(os.getpid()) if p not in self._children}
        self._seen |= {-process: cpu for process, cpu in children.items()}
        return sum(self._seen.values())

    def settle(self, *, at_most: float = 60.0) -> None:
        """Wait until nothing runs in the background any more."""
        end, before = time.perf_counter() + at_most, -1.0
        while time.perf_counter() < end and (now := self.seconds) - before > 2e-3:
            before = now
            time.sleep(0.3)

    @staticmethod
    def _now() -> dict[int, float]:
        found = {}
        for task in Path("/proc/self/task").glob("*"):
            try:
                found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) * 1e-9
            except (OSError, ValueError, IndexError):
                continue  # it ended while we looked
        return found


def _children(process: int) -> list[int]:
    """All descendants of a process."""
    try:
        tasks = list(Path(f"/proc/{process}/task").glob("*/children"))
        direct = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        return []
    return direct + [deeper for child in direct for deeper in _children(child)]


def _process_cpu(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


UNMEASURED = (":(top,exclude)docs", ":(top,exclude)benchmarks/results", ":(top,exclude)*.md")
"""For git: what changes nothing that is measured, the results themselves among it."""


@cache
def facts() -> dict[str, Any]:
    """Date, processor, versions, commit and load, as they were when first asked for."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "python": platform.python_version(),
        "versions": {
            name: metadata.version(name) for name in ("torch", "optgeom", "numpy", "pyarrow")
        },
        "commit": _commit(),
        "ns_dtype": NS_DTYPE,
        "load": round(os.getloadavg()[0], 1),
    }


def machine() -> str:
    """One line: date, processor, versions, load."""
    found = facts()
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "optgeom"))
    return (
        f"{found['date']} UTC; {found['processor']} ({found['instructions']}), "
        f"{found['cores']} cores, "
        f"{THREADS} torch threads, Newton-Schulz in {NS_DTYPE}; "
        f"Python {found['python']}, {versions}, "
        f"commit {found['commit']}; load {found['load']:.1f} at the start"
    )


def git(*words: str) -> str:
    """What git says of this repository; nothing where there is none."""
    command = ["git", *words]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _commit() -> str:
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *UNMEASURED)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" * bool(changed))


def calibrated(gflops: Sequence[float]) -> str:
    """One line: what the calibration loop gave between the blocks, and how much it wandered."""
    if not gflops:
        return "calibration: not run"
    low, high = min(gflops), max(gflops)
    return (
        f"calibration (512 x 512 products): median {statistics.median(gflops):.0f} GFLOP/s, "
        f"{low:.0f} to {high:.0f} over {len(gflops)} loops"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table; the columns are the first row's keys."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the largest."""

    median: float
    longest: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.longest:{spec}})"


class Number(str):
    """A cell of a table that keeps the number behind it."""

    value: float | Interval | Spread

    def __new__(cls, value: float | Interval | Spread, spec: str) -> Number:
        """Print a value.

        Args:
            value: the number.
            spec: how it is printed, as in an f-string.

        >>> Number(1.234, ".1f"), Number(1.234, ".1f").value
        ('1.2', 1.234)
        """
        made = super().__new__(cls, f"{value:{spec}}")
        made.value = value
        return made


def json_option(parser: argparse.ArgumentParser) -> None:
    """Give a script the option `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")


def write_json(
    path: Path | None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    gflops: Sequence[float] = (),
) -> None:
    """Write what was measured: the machine, the calibration, the rows of every table.

    Args:
        path: of the file; None: nothing is written.
        tables: by name. Of a `Number`, an `Interval`, a `Spread` the numbers are written.
        gflops: of the calibration loop.
    """
    if path is None:
        return
    rows = {
        name: [{key: _number(value) for key, value in row.items()} for row in those]
        for name, those in tables.items()
    }
    found = {"machine": facts(), "gflops": [round(one, 1) for one in gflops], "tables": rows}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _number(value: Any) -> Any:
    plain = value.value if isinstance(value, Number) else value
    return asdict(plain) if isinstance(plain, Interval | Spread) else plain


class CaseFailed(RuntimeError):
    """A case's process ended without a result; the message is its last line."""


def in_process(
    script: str,
    arguments: Mapping[str, Any],
    *,
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] | None = None,
    timeout: float = 3600.0,
) -> dict[str, Any]:
    """Run one case in a process of its own, so that no case inherits another's threads or memory.

    Args:
        script: a file beside this one; it reads JSON from its last argument and prints JSON last.
        arguments: for it.
        python: the interpreter of the environment that it needs.
        environment: variables beside this process's.
        timeout: seconds.

    Raises:
        CaseFailed: with the error's last line.
    """
    path = Path(__file__).with_name(script)
    if not python.exists():
        where = f"{python.parent.parent.parent.name}/{python.parent.parent.name}"
        raise CaseFailed(f"no environment {where}: make it with python benchmarks/peers.py")
    try:
        done = subprocess.run(
            [str(python), str(path), json.dumps(arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise CaseFailed(f"no result after {timeout:.0f} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise CaseFailed(f"{said[-1]} (exit code {done.returncode})")
    result: dict[str, Any] = json.loads(lines[-1])
    return result
