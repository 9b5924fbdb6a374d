"""Ranks of one distributed test, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_ranks(
    worker: Path,
    folder: Path,
    world: int,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 240.0,
) -> list[tuple[int, str]]:
    """Run ``WORKER FOLDER RANK WORLD`` once per rank, on one thread each, and wait for all.

    Returns:
        Each rank's exit code, and what it printed; none is left running.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(folder), str(rank), str(world)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out) for p, out in zip(processes, outputs, strict=True)]


def assert_ended_well(ended: list[tuple[int, str]]) -> None:
    assert [code for code, _ in ended] == [0] * len(ended), "\n".join(out for _, out in ended)
