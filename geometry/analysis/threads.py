"""Units on the threads of this process: one matrix to a thread, one thread to a matrix.

LAPACK's symmetric eigenvalues gain little from a second thread; so each thread takes matrices of
its own, and BLAS is limited to one thread. That limit holds for the whole process while an analysis
runs, and is lifted after it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from optgeom.geometry.analysis.engine import Done, Room
from optgeom.geometry.analysis.loading import Read
from optgeom.geometry.analysis.measuring import Found, measured
from optgeom.geometry.analysis.units import Unit
from optgeom.geometry.blas import one_blas_thread
from optgeom.geometry.threads import use_one_thread


def on_threads(
    units: Sequence[Unit], read: Read, room: Room, *, device: str | None = None
) -> Generator[Done]:
    """Measure units, in their order where there is room.

    Args:
        units: Any.
        read: Gives raw matrices, on several threads at once.
        room: How many at a time.
        device: As of `measured`.

    Yields:
        Each unit as it is done.
    """
    stop = threading.Event()

    def work(unit: Unit) -> Found:
        return measured(unit, read, device=device, stopped=stop.is_set)

    waiting = list(reversed(units))
    running: dict[Future[Found], Unit] = {}
    with (
        one_blas_thread(),
        ThreadPoolExecutor(room.workers, "optgeom-analysis", initializer=use_one_thread) as pool,
    ):
        try:
            while waiting or running:
                while waiting and room.admits(waiting[-1], running.values()):
                    unit = waiting.pop()
                    running[pool.submit(work, unit)] = unit
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield Done(running.pop(future), future.result())
        finally:
            stop.set()
