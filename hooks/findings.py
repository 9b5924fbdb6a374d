"""The rules of what goes wrong, run beside a job: what is new goes to the caller's function.

They read the trace that is being written, on a thread of their own, so that the training thread
only asks whether something has been found.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from optgeom.geometry.diagnose import diagnose
from optgeom.geometry.diagnosis.finding import Finding
from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place
from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)

OnFinding = Callable[[Finding], None]

LAST = 64
"""Captures that are looked at: what a diagnosis costs does not grow with the run."""

SHARE = 0.005
"""Of the run's time that diagnosing may take, in its own thread."""

WAIT = 10.0
"""Seconds after which a diagnosis that still runs is left alone at the end."""

CACHE_BYTES = 32 << 20


class Findings:
    """Looks for findings, and hands over each rule's first one of a severity, in any layers."""

    def __init__(
        self, place: Place, tell: OnFinding | None, *, reads: bool, start_step: int
    ) -> None:
        """Be ready; nothing is read before the first capture.

        Args:
            place: of the trace that is being written.
            tell: the caller's function, on every rank; None: nothing is ever looked for.
            reads: whether this rank does the looking.
            start_step: of this attempt; an older one's captures are not looked at.
        """
        self._place = place
        self._tell = tell
        self._reads = reads and tell is not None
        self._start = self._step = start_step
        self._trace: Trace | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._known: set[tuple[str, str]] = set()
        self._new: list[Finding] = []
        self._next = 0.0
        self._is_away = False
        self.seconds = 0.0  # of this processor, so far

    @property
    def waiting(self) -> int:
        """How many findings wait to be taken."""
        with self._lock:
            return len(self._new)

    def look(self, step: int) -> None:
        """Start a diagnosis on a thread of its own, if none runs and it is time for one.

        Args:
            step: that was captured last.
        """
        self._step = step
        now = time.perf_counter()
        is_busy = self._thread is not None and self._thread.is_alive()
        if self._reads and not is_busy and now >= self._next:
            self._thread = threading.Thread(target=self._diagnose, name="optgeom-diagnose")
            self._thread.start()

    def take(self) -> tuple[Finding, ...]:
        """What is new since the last time."""
        with self._lock:
            taken, self._new = tuple(self._new), []
        return taken

    def tell(self, findings: tuple[Finding, ...]) -> None:
        """Call the caller's function; what it raises is the caller's, and meant."""
        waiting = list(findings)
        try:
            while waiting and self._tell is not None:
                self._tell(waiting.pop(0))
        finally:
            with self._lock:  # what was not told is told the next time
                self._new = waiting + self._new

    def last(self) -> tuple[Finding, ...]:
        """Look once more, at the end of the run."""
        if self._thread is not None:
            self._thread.join(WAIT)
        if self._reads and (self._thread is None or not self._thread.is_alive()):
            if self._place.is_local:
                self._diagnose()
            else:  # a store that does not answer must not keep the end waiting
                last = threading.Thread(target=self._diagnose, name="optgeom-diagnose", daemon=True)
                last.start()
                last.join(WAIT)
        return self.take()

    def _diagnose(self) -> None:
        started, busy = time.perf_counter(), time.thread_time()
        found: tuple[Finding, ...] = ()
        try:
            found = self._found()
        except Exception as error:  # noqa: BLE001 -- a run is not stopped by what looks at it
            if not self._may_answer_later(error):
                self._reads = False
                logger.warning("findings are not looked for any more: %s", error)
                return
        with self._lock:
            for finding in found:
                if (key := (finding.rule, finding.severity)) not in self._known:
                    self._known.add(key)
                    self._new.append(finding)
        self.seconds += time.thread_time() - busy
        now = time.perf_counter()
        self._next = now + (now - started) / SHARE

    def _may_answer_later(self, error: Exception) -> bool:
        """Whether it is only an object store that does not answer; the first time is told."""
        is_away = isinstance(error, TraceError) and not isinstance(error, DamagedTrace)
        if not is_away or self._place.is_local:
            return False
        if not self._is_away:
            self._is_away = True
            logger.warning("findings cannot be looked for now, and are tried again: %s", error)
        return True

    def _found(self) -> tuple[Finding, ...]:
        if self._trace is None:
            self._trace = Trace(self._place, Cache(CACHE_BYTES))
        self._trace.refresh()
        steps = self._trace.steps(stage=None)
        steps = steps[(steps >= self._start) & (steps <= self._step)]
        if not len(steps):
            return ()
        return diagnose(self._trace, steps=steps[-LAST:].tolist()).findings
