"""The background thread that turns matrices into spectra, in order, within bounded memory."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from optgeom.geometry.threads import use_one_thread

Job = Callable[[], None]
Failed = Callable[[Exception], None]

WAITING_BYTES = 512 << 20
"""Bytes of matrices that may wait to be measured."""


class Worker:
    """One daemon thread with a queue bounded in bytes.

    Attributes:
        seconds: CPU time of the jobs so far.
        waited: seconds in which a full queue held `submit` up.
        dropped: jobs that were not accepted.
        offered: bytes of all jobs.
        done: bytes of those that have run.
    """

    def __init__(self, capacity: int, on_error: Failed, *, wait: bool) -> None:
        """Start the thread.

        Args:
            capacity: bytes of matrices that may wait at once; one job is always accepted.
            on_error: called once, from the thread, with the first error of a job; later jobs are
                then dropped.
            wait: a full queue holds `submit` up; otherwise the job is dropped and counted.
        """
        self._capacity = capacity
        self._on_error = on_error
        self._wait = wait
        self._jobs: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        # `with` takes this one: a Condition's own is Python code, and Ctrl-C can leave it locked
        self._mutex = threading.RLock()
        self._room = threading.Condition(self._mutex)
        self._held = 0
        self._failed = False
        self._closed = self._ended = False
        self.seconds = 0.0
        self.waited = 0.0
        self.dropped = 0
        self.offered = 0
        self.done = 0
        self._thread = threading.Thread(target=self._run, name="optgeom-measure", daemon=True)
        self._thread.start()

    def submit(self, job: Job, size: int) -> bool:
        """Hand a job over.

        Args:
            job: run on the thread, after those before it.
            size: bytes that it keeps alive.

        Returns:
            Whether it was accepted.
        """
        with self._mutex:
            self.offered += size
            if self._full(size) and self._wait:
                started = time.perf_counter()
                self._room.wait_for(lambda: not self._full(size) or self._refuses)
                self.waited += time.perf_counter() - started
            if self._refuses or self._full(size):
                self.dropped += 1
                return False
            self._jobs.put((job, size))
            self._held += size  # in this order Ctrl-C leaves no bytes that nobody will give back
        return True

    @property
    def _refuses(self) -> bool:
        return self._failed or self._closed or self._ended

    def _full(self, size: int) -> bool:
        return self._held > 0 and self._held + size > self._capacity

    def _run(self) -> None:
        try:
            use_one_thread()
            while self._next():  # between jobs no name here keeps a matrix, or the run, alive
                pass
        finally:
            with self._mutex:  # whatever ended it: nobody may wait for it any more
                self._ended = True
                self._room.notify_all()

    def _next(self) -> bool:
        entry = self._jobs.get()
        if entry is None:
            return False
        job, size = entry
        started = time.thread_time()
        try:
            if not self._failed:
                job()
        except Exception as error:  # noqa: BLE001 -- the training run must not notice
            self._failed = True
            self._on_error(error)
        finally:
            self.seconds += time.thread_time() - started
            with self._mutex:
                self._held -= size
                self.done += size
                self._room.notify_all()
        return True

    def drain(self) -> None:
        """Wait until what was accepted so far has run."""
        with self._mutex:
            self._room.wait_for(lambda: self._held <= 0 or self._ended)

    def close(self) -> None:
        """Finish what was accepted and end the thread; any number of times."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
                self._room.notify_all()
        self._thread.join()
