"""Sends what is new in a trace that is being written, from a thread of its own on rank 0.

Rows of one step come at different times: norms with the next flush, spectra when they have been
measured. A number is sent once a look finds it of as many layers as the look before did, and a
later capture has it too, or half a minute has passed; at the end all are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from optgeom.geometry.threads import use_one_thread
from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.series import Line, lines_of, points_of
from optgeom.hooks.sinks.sink import Sink, name_of, series_of
from optgeom.traces.errors import OptgeomError
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place
from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two looks, at least."""

SHARE = 0.005
"""Of the run's time that looking and sending may take, in this thread."""

LATE = 30.0
"""Seconds after which a number is sent that no later capture has."""

WAIT = 10.0
"""Seconds that the end of a run waits for what is left."""

CACHE_BYTES = 32 << 20

STOPPED = "sink_stopped"
"""The scalar that says at which step a sink was given up, with its name."""


@dataclass(slots=True)
class _Receiver:
    """One sink: the last step sent of each line, and what waits for its last layers.

    Attributes:
        sink: where numbers go.
        sent: the last step, by name.
        waiting: of how many layers a number was, and since when, by name and step.
    """

    sink: Sink
    sent: dict[str, int] = field(default_factory=dict)
    waiting: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)

    def due(self, line: Line, bounds: tuple[int, int | None], now: float, *, last: bool) -> Line:
        """The part of a line that is to be sent now.

        Args:
            line: as it is now.
            bounds: the first step of this attempt; the last one that it has reached, None: any.
            now: seconds.
            last: whether nothing comes after it.
        """
        new = line.steps > max(self.sent.get(line.name, -1), bounds[0] - 1)
        if bounds[1] is not None:
            new &= line.steps <= bounds[1]
        steps, counts = line.steps[new], line.counts[new]
        count = len(steps)
        if not last:
            settled = [
                self._is_settled((line.name, step), layers, now, step < steps[-1])
                for step, layers in zip(steps.tolist(), counts.tolist(), strict=True)
            ]
            count = [*settled, False].index(False)  # in order: those after it wait for it
        return replace(
            line, steps=steps[:count], values=line.values[new][:count], counts=counts[:count]
        )

    def _is_settled(
        self, number: tuple[str, int], layers: int, now: float, is_followed: bool
    ) -> bool:
        before, since = self.waiting.get(number, (0, now))
        self.waiting[number] = (layers, since if before == layers else now)
        return before == layers and (is_followed or now - since >= LATE)

    def was_sent(self, lines: Sequence[Line]) -> None:
        """Remember it."""
        for line in lines:
            for step in line.steps.tolist():
                self.waiting.pop((line.name, step), None)
            self.sent[line.name] = int(line.steps[-1])


class Following:
    """Reads the trace every few seconds and sends what is new; nothing of it reaches the run."""

    def __init__(self, sinks: Sequence[Sink], *, start_step: int | None) -> None:
        """Be ready.

        Args:
            sinks: where numbers go.
            start_step: of this attempt; None: it is the first.
        """
        self._receivers = [_Receiver(sink) for sink in sinks]
        self._opened: list[Sink] = []
        self._start = start_step or 0
        self._reached = None if start_step is None else start_step - 1
        self._place: Place | None = None
        self._note: Callable[[int, str, float], None] = _nothing
        self._trace: Trace | None = None
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self._is_away = False
        self.seconds = 0.0  # of this processor, so far

    def open(self, run: str) -> None:
        """Open the sinks, before training.

        Args:
            run: its name.

        Raises:
            WatchError: one of them does not begin; the others are closed.
        """
        for receiver in self._receivers:
            try:
                receiver.sink.open(run)
            except Exception as error:
                self.close()
                if isinstance(error, OptgeomError):
                    raise
                name = name_of(receiver.sink)
                raise WatchError(f"{name}.open raised {type(error).__name__}: {error}") from error
            self._opened.append(receiver.sink)

    def start(self, place: Place, note: Callable[[int, str, float], None]) -> None:
        """Begin to look.

        Args:
            place: of the trace.
            note: records a scalar (step, name, value).
        """
        if self._opened:
            self._place, self._note = place, note
            self._thread = threading.Thread(target=self._run, name="optgeom-sinks", daemon=True)
            self._thread.start()

    def look(self, step: int) -> None:
        """A step was captured: of a resumed run, no later one is this attempt's.

        Args:
            step: that was captured.
        """
        if self._reached is not None:
            self._reached = step

    def end(self) -> None:
        """Send what is left and close the sinks; wait for it no longer than `WAIT`."""
        if self._thread is None:
            self.close()
            return
        self._ends.set()
        self._thread.join(WAIT)
        if self._thread.is_alive():
            names = ", ".join(name_of(sink) for sink in self._opened)
            logger.warning("after %g s, not all of the run has been sent to %s", WAIT, names)

    def close(self) -> None:
        """Close the sinks."""
        while self._opened:
            sink = self._opened.pop()
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 -- the run has ended well without it
                logger.warning("%s.close raised %s: %s", name_of(sink), *_said(error))

    def _run(self) -> None:
        use_one_thread()
        pause = EVERY
        while not self._ends.wait(pause):
            started = time.perf_counter()
            self._send(last=False)
            pause = max(EVERY, (time.perf_counter() - started) / SHARE)
        self._send(last=True)
        self.close()

    def _send(self, *, last: bool) -> None:
        busy = time.thread_time()
        try:
            for receiver in list(self._receivers):
                self._send_to(receiver, last=last)
        except Exception as error:  # noqa: BLE001 -- a run is not stopped by what looks at it
            if last or not self._is_away:
                self._is_away = True
                logger.warning("the trace cannot be read for the sinks: %s: %s", *_said(error))
        finally:
            self.seconds += time.thread_time() - busy

    def _send_to(self, receiver: _Receiver, *, last: bool) -> None:
        found = self._lines(receiver, last=last)
        points = points_of(found)
        if not points:
            return
        try:
            receiver.sink.send(points)
        except Exception as error:  # noqa: BLE001 -- whatever a sink does, the run goes on
            self._drop(receiver, points[-1].step, error)
            return
        receiver.was_sent(found)

    def _lines(self, receiver: _Receiver, *, last: bool) -> list[Line]:
        if self._place is None:
            return []
        if self._trace is None:
            self._trace = Trace(self._place, Cache(CACHE_BYTES))
        self._trace.refresh()
        now, bounds = time.monotonic(), (self._start, self._reached)
        lines = lines_of(self._trace, series_of(receiver.sink))
        due = (receiver.due(line, bounds, now, last=last) for line in lines)
        return [line for line in due if len(line.steps)]

    def _drop(self, receiver: _Receiver, step: int, error: Exception) -> None:
        """Give a sink up: said once, and recorded."""
        name = name_of(receiver.sink)
        self._receivers.remove(receiver)
        logger.warning("nothing is sent to %s any more: %s: %s", name, *_said(error))
        if not self._ends.is_set():  # afterwards the trace is closed
            self._note(step, f"{STOPPED}.{name}", 1.0)


def _said(error: Exception) -> tuple[str, Exception]:
    return type(error).__name__, error


def _nothing(step: int, name: str, value: float) -> None:
    """Record nothing."""
