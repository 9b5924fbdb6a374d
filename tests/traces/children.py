"""Work in forked children, with bounds on memory and time: an abort is seen as a signal."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What became of a child.

    Attributes:
        how: "done", "error", "signal" or "late".
        what: what it returned, by way of JSON; the error; the signal's number.
        seconds: how long it took.
        megabytes: what it took at most, beyond what its parent had.
    """

    how: str
    what: Any
    seconds: float = 0.0
    megabytes: float = 0.0


def run(work: Callable[[], Any], *, seconds: int = 20, memory: int | None = 2 * GIB) -> Outcome:
    """Do some work in a child.

    Args:
        work: returns what JSON holds.
        seconds: after which it is killed.
        memory: bytes of address space beyond what this process has; None: any.
    """
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            signal.alarm(seconds)
            if memory is not None:
                most = _address_space() + memory
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                said = ["done", work()]
            except BaseException:  # noqa: BLE001  whatever it was is the outcome
                said = ["error", traceback.format_exc()[-1500:]]
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            with os.fdopen(writing, "w") as out:
                json.dump([*said, grown], out)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - started
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = "late" if number == signal.SIGALRM else "signal"
        return Outcome(how, signal.Signals(number).name, took)
    if not text:
        return Outcome("error", "it said nothing", took)
    how, what, grown = json.loads(text)
    return Outcome(how, what, took, grown)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def quiet() -> None:
    """What a child that aborts would print goes nowhere."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
