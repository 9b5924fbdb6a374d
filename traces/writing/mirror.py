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

from optgeom.traces.errors import TraceError
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


class Mirror:
    """Makes a place show what a writer has written to a spool, from a thread of its own.

    Args:
        spool: that is written to; removed at the end, if the store has everything by then.
        place: the run's.
        left: spools that earlier processes of the run left on this machine: uploaded first.
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
        self._left = dict.fromkeys(left, 0)
        self.room = Room(spool.room)
        self._failures = 0
        self._refusal = ""
        self._streams_due = 0.0
        self._changed = threading.Condition()
        self._asked = self._tried = self._answered = 0
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
        with self._changed:
            self._asked += 1
            ticket = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= ticket or self._stopping, seconds)
            return self._answered >= ticket

    def close(self, seconds: float) -> None:
        """Catch up within some seconds, fewer where the store has long refused; then end.

        What is left is said in the log, and stays.
        """
        with self._changed:
            if self._stopping:
                return
        if self._failures >= _REFUSED_TIMES:
            seconds = min(seconds, _REFUSED_SECONDS)
        is_complete = self.catch_up(seconds) and not self._uploading.left()
        with self._changed:
            self._complete = is_complete
            self._stopping = True
            self._changed.notify_all()
        if is_complete:
            self._thread.join()
            return
        self._thread.join(_STOP_SECONDS)
        keys = f" (with the keys for {MASK})" if MASK in self._place.shown else ""
        _LOG.warning(
            "%s of %s are not there (%s): they wait in %s; upload them with: "
            "optgeom trace upload %s '%s'%s",
            size_in_words(self._uploading.left()),
            self._place.shown,
            self._refusal or f"the store has not taken them within {seconds:.0f} s",
            self._spool.folder,
            self._spool.folder,
            self._place.shown,
            keys,
        )

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
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._asked > self._tried, timeout=self._next_wait()
            )
            return not self._stopping

    def _next_wait(self) -> float:
        if not self._failures:
            return self._pause
        longest = _ASKED_WAIT if self._asked > self._answered else _LONGEST_WAIT
        wait = min(longest, _FIRST_WAIT * 2.0 ** min(self._failures - 1, 20))
        # so that the ranks of a job do not all come back at the same moment
        return wait * random.uniform(0.5, 1.0)

    def _try(self) -> None:
        with self._changed:
            asked = self._asked
            is_asked = asked > self._answered
        before = self._uploading.files
        try:
            self._turn(streams=is_asked or time.monotonic() >= self._streams_due)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the records wait
            self._failed(error, progressed=self._uploading.files > before)
        else:
            self._worked()
        with self._changed:
            self._tried = asked
            if not self._failures:
                self._answered = asked
            self._changed.notify_all()

    def _turn(self, *, streams: bool) -> None:
        refused = [one for one in list(self._left) if not self._bring(one)]
        self._uploading.turn(streams=streams)
        self.room.waiting = self._spool.waiting()
        if streams:
            wait = max(self._every, _STREAM_SHARE * self._uploading.stream_seconds)
            self._streams_due = time.monotonic() + wait
        for one in refused:
            self._refused(one)

    def _bring(self, left: Spool) -> bool:
        """Upload what an earlier process left; False where that fails."""
        try:
            begin_upload(left.folder, self._place, left.note).turn()
        except (TraceError, OSError) as error:
            self._refusal = scrubbed(str(error), self._place.address)
            return False
        left.remove()
        del self._left[left]
        return True

    def _refused(self, left: Spool) -> None:
        """The store takes this run's own records, and not those of an earlier process."""
        self._left[left] += 1
        if self._left[left] >= _REFUSED_TIMES:
            _LOG.warning("%s stays where it is: %s", left.folder, self._refusal)
            left.release()
            del self._left[left]

    def _failed(self, error: Exception, *, progressed: bool) -> None:
        is_new = not self._failures
        # a store that takes one thing and refuses the next is asked again soon
        self._failures = 1 if progressed else self._failures + 1
        reason = scrubbed(str(error) or type(error).__name__, self._place.address)
        if is_new:
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
