"""How a recorder ends: everything written, threads gone, and one line that says what was saved.

Nothing here refers to the model or the optimizer, so that what ends a forgotten recorder does not
keep them alive.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from pathlib import Path

from optgeom.hooks.beside import Beside
from optgeom.hooks.costs import Costs, percent
from optgeom.hooks.guard import Guard
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.worker import Worker
from optgeom.traces.printable import size_in_words
from optgeom.traces.writer import TraceWriter

logger = logging.getLogger("optgeom")


class Ending:
    """Closes worker, writer and ranks, once; at the latest when the interpreter exits."""

    def __init__(
        self,
        writer: TraceWriter,
        worker: Worker,
        ranks: Ranks,
        guard: Guard,
        costs: Costs,
        beside: Beside,
        layers: int,
        budget: float | None,
    ) -> None:
        """Be called at exit.

        Args:
            writer: is closed after the worker, whose rows it takes.
            worker: finishes what it has accepted.
            ranks: give their process group back.
            guard: knows what stopped the capture.
            costs: what capture took.
            beside: took time too; what it still has to send is sent once the trace is whole.
            layers: how many are captured.
            budget: the share that was allowed.
        """
        self._writer = writer
        self._worker = worker
        self._ranks = ranks
        self._guard = guard
        self._costs = costs
        self._beside = beside
        self._layers = layers
        self._budget = budget
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._done = False
        atexit.register(self._at_exit)

    def __call__(self, error: BaseException | None = None) -> None:
        """End; any number of times, and not at all in a forked child.

        Args:
            error: what ended the run. An exception marks the attempt as failed; Ctrl-C and
                sys.exit are somebody's wish, and it is closed.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._done:
                return
            self._done = True
        atexit.unregister(self._at_exit)
        started = self._costs.ended = time.perf_counter()
        background = self._worker.seconds + self._writer.seconds + self._beside.seconds
        with self._guard.harmless():
            self._worker.close()
        with self._guard.harmless():
            self._writer.close(error if isinstance(error, Exception) else None)
        with self._guard.harmless():
            self._ranks.close()
        with self._guard.harmless():
            self._beside.following.end()
        with self._guard.harmless():
            self._say(background, time.perf_counter() - started)

    def later(self) -> None:
        """End from a thread of its own: for a recorder that was dropped without `close`."""
        if not self._done and os.getpid() == self._process:
            threading.Thread(target=self, name="optgeom-close").start()

    def _at_exit(self) -> None:
        self(uncaught())

    def _say(self, background: float, closing: float) -> None:
        if self._ranks.rank:
            return
        costs = self._costs
        failure = self._guard.error or self._writer.failure
        left_out = {
            "budget": costs.rows_left_out,
            "queue": self._worker.dropped,
            "writer": sum(self._writer.dropped.values()),
        }
        place = self._writer.place
        line = sentence(
            shown(place.local()) if place.is_local else place.shown,
            captures=costs.saved,
            layers=self._layers,
            size=self._writer.size,
            share=costs.share(background),
            budget=self._budget,
            background=background,
            closing=closing,
            left_out=left_out,
            failure=failure,
        )
        announce(line, logging.WARNING if failure is not None else logging.INFO)


def sentence(
    where: str,
    *,
    captures: int,
    layers: int,
    size: int,
    share: float,
    budget: float | None,
    background: float,
    closing: float,
    left_out: dict[str, int],
    failure: BaseException | None,
) -> str:
    """What was saved, where, and what it cost, on one line.

    >>> print(sentence("runs/a", captures=412, layers=26, size=63_100_000, share=0.0083,
    ...     budget=0.01, background=3.1, closing=0.2, left_out={"budget": 40}, failure=None))
    runs/a: 412 captures of 26 layers, 63.1 MB; 0.83 % of the run's time (budget 1 %), 3.1 s of \
it in background; 40 rows left out (budget 40)
    """
    saved = f"{_count(captures, 'capture')} of {_count(layers, 'layer')}, {size_in_words(size)}"
    if failure is not None:
        reason = f"{type(failure).__name__}: {failure}".partition("\n")[0]
        saved = f"capture stopped ({reason}), the run went on; {saved} before"
    elif not captures:
        saved = f"no step of the {_count(layers, 'layer')} was captured"
    limit = "no budget" if budget is None else f"budget {100 * budget:.3g} %"
    cost = f"{percent(share)} of the run's time ({limit}), {background:.1f} s of it in background"
    if closing >= 0.5:
        cost += f", {closing:.1f} s to finish"
    parts = [saved, cost]
    lost = {reason: count for reason, count in left_out.items() if count}
    if lost:
        reasons = ", ".join(f"{reason} {count}" for reason, count in lost.items())
        parts.append(f"{_count(sum(lost.values()), 'row')} left out ({reasons})")
    return f"{where}: {'; '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(path: Path) -> str:
    """A path as short as it can be said: from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def announce(line: str, level: int = logging.INFO) -> None:
    """Say one line where it is seen: by the handlers of `logging`, else on stderr.

    `logging.getLogger("optgeom").setLevel(...)` beyond the level silences it.
    """
    if logger.level > level or logger.disabled or logging.root.manager.disable >= level:
        return
    if not logger.hasHandlers():
        sys.stderr.write(f"optgeom: {line}\n")
        return
    # a root logger at its default level, WARNING, is nobody's wish not to be told
    logger.handle(logger.makeRecord(logger.name, level, "(optgeom)", 0, "%s", (line,), None))


def uncaught() -> BaseException | None:
    """The exception that ends this process; None at a prompt, where one ends nothing."""
    if hasattr(sys, "ps1") or sys.flags.interactive:
        return None
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return error
