"""Units on processes of this machine: each has its own interpreter, and may be killed."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from optgeom.geometry.analysis.engine import Done, Room, measured_elsewhere
from optgeom.geometry.analysis.measuring import Found
from optgeom.geometry.analysis.units import Unit

TRIES = 3
"""How often a unit may be under way when a process is killed before it is given up."""

_logger = logging.getLogger(__name__)


def on_processes(units: Sequence[Unit], uri: str, room: Room) -> Generator[Done]:
    """Measure units; where a process is killed, what was under way is begun again.

    Python starts the processes by importing the main script: a script that calls this must do so
    under ``if __name__ == "__main__":``.

    Args:
        units: Any.
        uri: Where the trace is.
        room: How many at a time.

    Yields:
        Each unit as it is done, or given up after its third try.
    """
    waiting = list(reversed(units))
    tries: Counter[int] = Counter()
    while waiting:
        running: dict[Future[Found], Unit] = {}
        pool = ProcessPoolExecutor(room.workers, get_context("spawn"), _leave_interrupts)
        try:
            while waiting or running:
                while waiting and room.admits(waiting[-1], running.values()):
                    unit = waiting.pop()
                    running[pool.submit(measured_elsewhere, uri, unit)] = unit
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = future.result()
                    yield Done(running.pop(future), found)
        except BrokenProcessPool:
            _logger.warning("a process was killed: %d units are begun again", len(running))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for unit in running.values():
            tries[id(unit)] += 1
            if tries[id(unit)] < TRIES:
                waiting.append(unit)
            else:
                yield Done(unit, given_up(unit, f"its process was killed {TRIES} times"))


def _leave_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def given_up(unit: Unit, why: str) -> Found:
    """What a unit gave that no worker lived to measure."""
    names = sorted({task.layer.name for tasks in unit.captures for task in tasks})
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    first, last = unit.captures[0][0].step, unit.captures[-1][0].step
    return Found(failures=[f"{shown}, steps {first} to {last}, were given up: {why}"])
