"""Units on processes of this machine: each has its own interpreter, and may be killed."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event

from optgeom.geometry.analysis.engine import Done, Room, Source, given_up, measured_elsewhere
from optgeom.geometry.analysis.measuring import Found
from optgeom.geometry.analysis.units import Unit
from optgeom.traces.errors import OptgeomError

TRIES = 2
"""How often a unit may be alone in a process that is killed before it is given up."""

_logger = logging.getLogger(__name__)
_stopped: Callable[[], bool] = lambda: False  # noqa: E731 (a worker's is the event of its parent)


def on_processes(units: Sequence[Unit], source: Source, room: Room) -> Generator[Done]:
    """Measure units; where a process is killed, what was under way is begun again, one by one.

    Python starts the processes by importing the main script: a script that calls this must do so
    under ``if __name__ == "__main__":``.

    Args:
        units: Any.
        source: The trace.
        room: How many at a time.

    Yields:
        Each unit as it is done, or given up when it was alone in two processes that were killed.

    Raises:
        OptgeomError: if processes die before any has measured anything.
    """
    context = get_context("spawn")
    stop = context.Event()
    waiting, suspects = list(reversed(units)), list[Unit]()
    tries: Counter[int] = Counter()
    any_done = False
    while waiting or suspects:
        alone = bool(suspects)
        queue, limit = (suspects, Room(1, room.memory)) if alone else (waiting, room)
        running: dict[Future[Found], Unit] = {}
        pool = ProcessPoolExecutor(limit.workers, context, _begin, (stop,))
        try:
            while queue or running:
                while queue and limit.admits(queue[-1], running.values()):
                    running[pool.submit(_measured, source, queue[-1])] = queue[-1]
                    queue.pop()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = future.result()
                    any_done = True
                    yield Done(running.pop(future), found)
        except BrokenProcessPool:
            _logger.warning("a process was killed: %d units are begun again", len(running))
        except BaseException:  # closed, or interrupted: the workers end after their capture
            stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for unit in running.values():
            tries[id(unit)] += alone
            if tries[id(unit)] < TRIES:
                suspects.append(unit)
            elif not any_done:
                raise OptgeomError(
                    "processes die before they measure anything. A script that passes workers= "
                    'does so under if __name__ == "__main__": for they import it; else look '
                    "whether memory is short, and pass fewer workers or less memory"
                )
            else:
                yield Done(unit, given_up(unit, f"its process was killed {TRIES} times"))


def _begin(stop: Event) -> None:
    global _stopped
    _stopped = stop.is_set
    # Ctrl-C reaches every process of the terminal: the first one tells the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measured(source: Source, unit: Unit) -> Found:
    return measured_elsewhere(source, unit, _stopped)
