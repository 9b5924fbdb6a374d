"""The thread that brings a spool to its object store while a run goes on.

The run's records are in the spool's files first, as those of a local trace are in its. So a store
that does not answer needs no way of its own: what it did not take waits, and is tried again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence

from optgeom.traces.files.address import MASK, scrubbed
from optgeom.traces.files.place import Place
from optgeom.traces.printable import size_in_words
from optgeom.traces.writing.room import Room
from optgeom.traces.writing.spool import Spool
from optgeom.traces.writing.uploading import Uploading, begin_upload

_LOG = logging.getLogger(__name__)
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_ASKED_WAIT = 2.0
"""The longest wait between two tries while somebody waits for the store."""

_LONGEST_PAUSE = 10.0
_STREAM_SHARE = 10
"""Streams are uploaded whole each time: at most one part in so many of the time goes to them."""

_REFUSED_TIMES = 3
_REFUSED_SECONDS = 10.0
"""How long the end waits for a store that has refused so often in a row."""

_STOP_SECONDS = 1.0
_QUIET_SECONDS = 2.0
"""How long the end waits for a store without a word."""

_BROKEN_OFF = (
    "the wait was broken off; a request under way may hold the process for half a minute more"
)


class Mirror:
    """Makes a place show what a writer has written to a spool, from a thread of its own.

    Args:
        spool: that is written to; removed at the end, if the store has everything by then.
        place: the run's.
        left: spools that earlier processes of the run left on this machine: uploaded too, one
            after each turn for the run's own records.
        every: seconds between two looks at the spool.

    Attributes:
        room: for raw matrices that wait.
    """

    def __init__(self, spool: Spool, place: Place, left: Sequence[Spool], *, every: float):
        self._spool, self._place = spool, place
        self._pause = min(every, _LONGEST_PAUSE)
        self._every = every
        self._uploading = Uploading(
            spool.folder, place, attempt=spool.note.attempt, takes=True, beats=True
        )
        self._left: dict[Spool, list[str]] = {one: [] for one in left}  # why it was refused
        self.room = Room(spool.room)
        self._failures = 0
        self._refusal = ""
        self._streams_due = 0.0
        # `with` takes this one: a Condition's own is Python code, and Ctrl-C can leave it locked
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._asked = self._tried = self._answered = self._last = 0
        self._stopping = self._complete = False
        self._thread = threading.Thread(target=self._work, name="optgeom-mirror", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes of the files of this writer, in the store or on their way."""
        return self._uploading.size + self.behind

    @property
    def behind(self) -> int:
        """Bytes of files that the store does not have yet."""
        return 0 if self._complete else self._uploading.left()

    def step_ended(self, step: int) -> None:
        """The raw matrices of a step are sealed; called by the writer's thread."""
        self.room.ended(step, self._spool.waiting())

    def catch_up(self, seconds: float) -> bool:
        """Wait until the store has all that is in the spool now; False if it has not in time."""
        with self._mutex:
            ticket = self._ask()
            self._changed.wait_for(lambda: self._answered >= ticket or self._stopping, seconds)
            return self._answered >= ticket

    def close(self, seconds: float) -> None:
        """Catch up within some seconds, fewer where the store has long refused; then end.

        What is left is said in the log, and stays; so is a spool of an earlier process. Whatever
        breaks the wait off, as Ctrl-C does, goes on its way after that.
        """
        with self._mutex:
            if self._stopping:
                return
        if self._failures >= _REFUSED_TIMES:
            seconds = min(seconds, _REFUSED_SECONDS)
        why = _BROKEN_OFF
        try:
            self._bring_all(seconds)
            why = self._refusal or f"the store has not taken them within {seconds:.0f} s"
        finally:
            self._end(why)

    def abandon(self) -> None:
        """End at once, with a spool in which there is nothing yet: it goes."""
        with self._mutex:
            self._complete = self._stopping = True
            self._changed.notify_all()
        self._thread.join(_STOP_SECONDS)

    def _ask(self) -> int:
        """Have the thread begin a turn; the ticket is answered once the store has everything."""
        self._asked += 1
        self._changed.notify_all()
        return self._asked

    def _bring_all(self, seconds: float) -> None:
        """Wait until the store has everything, and say so where that takes long."""
        quiet = min(seconds, _QUIET_SECONDS)
        with self._mutex:
            self._last = self._ask()
            is_done = self._changed.wait_for(self._has_ended, quiet)
        if is_done or quiet == seconds:
            return
        _LOG.warning(
            "waiting up to %.0f s for %s (%s left); records are safe in %s, Ctrl-C leaves them "
            "there",
            seconds,
            self._place.shown,
            size_in_words(self._uploading.left()),
            self._spool.folder,
        )
        with self._mutex:
            self._changed.wait_for(self._has_ended, seconds - quiet)

    def _has_ended(self) -> bool:
        is_told = self._answered >= self._last and all(self._left.values())
        return self._stopping or is_told

    def _end(self, why: str) -> None:
        """Stop the thread, and say what is left and why."""
        is_complete = self._answered >= self._last > 0 and not self._uploading.left()
        with self._mutex:
            if self._stopping:
                return  # another thread has ended it
            waiting = {one: said[-1] if said else why for one, said in self._left.items()}
            self._complete = is_complete
            self._stopping = True
            self._changed.notify_all()
        for one, said in waiting.items():
            _LOG.warning("%s stays where it is: %s", one.folder, said)
        if is_complete:
            # what it does for an earlier process may take longer than somebody may wait
            self._thread.join(_STOP_SECONDS if waiting else None)
            return
        keys = f" (with the keys for {MASK})" if MASK in self._place.shown else ""
        _LOG.warning(
            "%s of %s are not there (%s): they wait in %s; upload them with: "
            "optgeom trace upload %s '%s'%s",
            size_in_words(self._uploading.left()),
            self._place.shown,
            why,
            self._spool.folder,
            self._spool.folder,
            self._place.shown,
            keys,
        )
        if why != _BROKEN_OFF:
            # for a request under way; what it says is no news any more
            self._thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        try:
            while self._wait():
                self._try()
        finally:
            for one in self._left:
                one.release()
            if self._complete:
                self._spool.remove()
            else:
                self._spool.release()

    def _wait(self) -> bool:
        """Wait for the next turn; False when there is none."""
        with self._mutex:
            self._changed.wait_for(
                lambda: self._stopping or self._asked > self._tried, timeout=self._next_wait()
            )
            return not self._stopping

    def _next_wait(self) -> float:
        if not self._failures:
            return self._pause if all(self._left.values()) else 0.0
        longest = _ASKED_WAIT if self._asked > self._answered else _LONGEST_WAIT
        wait = min(longest, _FIRST_WAIT * 2.0 ** min(self._failures - 1, 20))
        # so that the ranks of a job do not all come back at the same moment
        return wait * random.uniform(0.5, 1.0)

    def _try(self) -> None:
        with self._mutex:
            asked = self._asked
            is_asked = asked > self._answered
        before = self._uploading.files
        try:
            self._turn(streams=is_asked or time.monotonic() >= self._streams_due)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the records wait
            self._failed(error, progressed=self._uploading.files > before)
        else:
            self._worked()
        with self._mutex:
            self._tried = asked
            if not self._failures:
                self._answered = asked
            self._changed.notify_all()
        if not self._failures and self._left and not self._stopping:
            # those not tried yet before those that were refused
            self._bring(min(self._left, key=lambda one: len(self._left[one])))

    def _turn(self, *, streams: bool) -> None:
        self._uploading.turn(streams=streams)
        self.room.waiting = self._spool.waiting()
        if streams:
            wait = max(self._every, _STREAM_SHARE * self._uploading.stream_seconds)
            self._streams_due = time.monotonic() + wait

    def _bring(self, left: Spool) -> None:
        """Upload what an earlier process left, of a store that takes this run's own records."""
        try:
            waits = begin_upload(left.folder, self._place, left.note).turn()
            refusal = f"{size_in_words(waits)} of it are not in the store" if waits else ""
        except Exception as error:  # noqa: BLE001 -- whatever it was, the records wait
            refusal = scrubbed(str(error) or type(error).__name__, self._place.address)
        with self._mutex:
            tried = len(self._left[left]) + 1
            if refusal and tried < _REFUSED_TIMES:
                self._left[left].append(refusal)
            else:
                del self._left[left]
            self._changed.notify_all()
        if not refusal:
            left.remove()
        elif tried >= _REFUSED_TIMES:
            _LOG.warning("%s stays where it is: %s", left.folder, refusal)
            left.release()

    def _failed(self, error: Exception, *, progressed: bool) -> None:
        is_new = not self._failures
        # a store that takes one thing and refuses the next is asked again soon
        self._failures = 1 if progressed else self._failures + 1
        reason = scrubbed(str(error) or type(error).__name__, self._place.address)
        if is_new and not self._stopping:
            _LOG.warning(
                "%s; records wait in %s and are uploaded when the store answers",
                reason,
                self._spool.folder,
            )
        self._refusal = reason

    def _worked(self) -> None:
        if self._failures:
            _LOG.warning("%s: the store answers again", self._place.shown)
        self._failures, self._refusal = 0, ""
