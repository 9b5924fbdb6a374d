"""Sends what is new in a trace that is being written, from threads of its own on rank 0.

Each sink has a thread, so that one which does not answer holds up nobody else. They read one
trace, one after another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from optgeom.geometry.threads import use_one_thread
from optgeom.hooks.sinks.receiver import Receiver, said
from optgeom.hooks.sinks.series import Line, lines_of, points_of
from optgeom.hooks.sinks.sink import Sink, series_of
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place
from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two looks, at least."""

SHARE = 0.005
"""Of the run's time that looking may take of a processor, all sinks together."""

LATE = 30.0
"""Seconds after which a number is sent that no later capture has."""

WAIT = 10.0
"""Seconds that the end of a run waits for what is left."""

INTERRUPTED = 1.0
"""Seconds that it waits for sinks to close when it is interrupted."""

CACHE_BYTES = 32 << 20

STOPPED = "sink_stopped"
"""The scalar that says at which step a sink was given up, with its name."""


class Following:
    """Reads the trace every few seconds and sends what is new; nothing of it reaches the run."""

    def __init__(self, sinks: Sequence[Sink], *, start_step: int | None) -> None:
        """Be ready.

        Args:
            sinks: where numbers go.
            start_step: of this attempt; None: it is the first.
        """
        self._receivers = [Receiver(sink, first=start_step or 0) for sink in sinks]
        self._reached = None if start_step is None else start_step - 1
        self._place: Place | None = None
        self._note: Callable[[int, str, float], None] = _nothing
        self._trace: Trace | None = None
        self._reading = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._ends = threading.Event()
        self._is_interrupted = False
        self._is_away = False

    @property
    def seconds(self) -> float:
        """Of a processor, so far."""
        return sum(receiver.seconds for receiver in self._receivers)

    def open(self, run: str) -> None:
        """Open the sinks, before training.

        Args:
            run: its name.

        Raises:
            WatchError: one of them does not begin, or is another recorder's; the others are closed.
        """
        try:
            for receiver in self._receivers:
                receiver.open(run)
        except BaseException:
            self.close()
            raise

    def start(self, place: Place, note: Callable[[int, str, float], None]) -> None:
        """Begin to look.

        Args:
            place: of the trace.
            note: records a scalar (step, name, value).
        """
        self._place, self._note = place, note
        for receiver in self._receivers:
            thread = threading.Thread(
                target=self._run, args=(receiver,), name="optgeom-sinks", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def look(self, step: int) -> None:
        """A step was captured, or was the last: of a resumed run, no later one is this attempt's.

        Args:
            step: that was reached.
        """
        if self._reached is not None:
            self._reached = step

    def end(self) -> None:
        """Send what is left and close the sinks; wait for it no longer than `WAIT`.

        Raises:
            BaseException: what interrupts it. Then the sinks close without what is left.
        """
        if not self._threads:
            self.close()
            return
        self._ends.set()
        try:
            left = self._join(WAIT)
        except BaseException:
            self._is_interrupted = True
            if left := self._join(INTERRUPTED):
                logger.warning("interrupted: not yet closed: %s", ", ".join(left))
            raise
        if left:
            logger.warning(
                "after %g s, not all of the run has been sent to %s: the rest is while this "
                "process lives",
                WAIT,
                ", ".join(left),
            )

    def close(self) -> None:
        """Close the sinks that no thread sends to."""
        with ExitStack() as stack:  # all of them, whatever one does
            for receiver in self._receivers:
                stack.callback(receiver.close)

    def _join(self, seconds: float) -> list[str]:
        """Wait for all threads; the sinks that have not done."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        pairs = zip(self._receivers, self._threads, strict=True)
        return [receiver.name for receiver, thread in pairs if thread.is_alive()]

    def _run(self, receiver: Receiver) -> None:
        use_one_thread()
        pause, goes_on = EVERY, True
        while goes_on and not self._ends.wait(pause):
            busy, goes_on = self._send_to(receiver, last=False)
            pause = max(EVERY, busy * len(self._receivers) / SHARE)
        if goes_on and not self._is_interrupted:
            self._send_to(receiver, last=True)
        try:
            receiver.close()
        except BaseException as error:  # noqa: BLE001 -- as in _send_to
            logger.warning("%s.close raised %s", receiver.name, said(error))

    def _send_to(self, receiver: Receiver, *, last: bool) -> tuple[float, bool]:
        """Look and send.

        Returns:
            The seconds of this processor that the look took, and whether the sink goes on.
        """
        started = time.thread_time()
        found = self._found(receiver, last=last)
        points = points_of(found)
        busy = time.thread_time() - started
        try:
            if points and not self._is_interrupted:
                receiver.sink.send(points)
                receiver.due.was_sent(found)
        except BaseException as error:  # noqa: BLE001 -- a thread of ours, which nobody interrupts:
            # sys.exit in a sink would end it without a word, and is a failure like another
            self._give_up(receiver, points[-1].step, error)
            return busy, False
        finally:
            receiver.seconds += time.thread_time() - started
        return busy, True

    def _found(self, receiver: Receiver, *, last: bool) -> list[Line]:
        try:
            with self._reading:
                return self._due(receiver, last=last)
        except Exception as error:  # noqa: BLE001 -- a run is not stopped by what looks at it
            if last or not self._is_away:
                self._is_away = True
                logger.warning("the trace cannot be read for %s: %s", receiver.name, said(error))
            return []

    def _due(self, receiver: Receiver, *, last: bool) -> list[Line]:
        if self._place is None:
            return []
        if self._trace is None:
            self._trace = Trace(self._place, Cache(CACHE_BYTES))
        self._trace.refresh()
        due = receiver.due
        lines = lines_of(self._trace, series_of(receiver.sink), due.after)
        return due.of(lines, time.monotonic(), reached=self._reached, late=LATE, last=last)

    def _give_up(self, receiver: Receiver, step: int, error: BaseException) -> None:
        """Said once, and recorded."""
        logger.warning("nothing is sent to %s any more: %s", receiver.name, said(error))
        if not self._ends.is_set():  # afterwards the trace is closed
            self._note(step, f"{STOPPED}.{receiver.name}", 1.0)


def _nothing(step: int, name: str, value: float) -> None:
    """Record nothing."""
