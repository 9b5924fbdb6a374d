"""What several workers of pytest-xdist need: made by the first of them, copied by the others."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this worker's own with what ``make(folder)`` has put there, in any worker.

    Args:
        factory: The session's.
        name: Of the folder, one for each thing that is made.
        make: Called at most once in a session, with an empty folder; the others wait.
    """
    base = factory.getbasetemp()
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    common.mkdir(exist_ok=True)
    original, whole = common / name, common / f"{name}.whole"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(original, ignore_errors=True)  # of a worker that failed
            original.mkdir()
            make(original)
            whole.touch()
    return Path(shutil.copytree(original, factory.mktemp(name), dirs_exist_ok=True))
