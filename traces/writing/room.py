"""Which raw matrices may still wait on this machine for an object store that is behind."""

from __future__ import annotations

import threading

NO_ROOM = (
    "more would wait for the object store than a tenth of what was free on this machine at the "
    "start; all else goes on"
)
_STEPS = 64


class Room:
    """Decides for whole steps, so that no matrix is there in part.

    Of steps that are not ended it knows the last 64 that it was asked about. One that it had to
    forget may not wait any more: it does not know whether it had refused the step's first bytes.

    Args:
        limit: bytes that may wait.

    Attributes:
        waiting: bytes that wait, as last measured.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.waiting = 0
        self._largest = 0
        self._taken: dict[int, int | None] = {}  # bytes of a step so far; None: it was refused
        self._forgotten = -1
        self._lock = threading.Lock()

    def takes(self, step: int, nbytes: int) -> bool:
        """Whether some bytes of a step may wait; the first ones decide for all of them."""
        with self._lock:
            if step in self._taken:
                taken = self._taken.pop(step)
            else:
                holds = self.waiting + max(self._largest, nbytes) <= self.limit
                taken = 0 if holds and step > self._forgotten else None
            # the one that was asked about last stands last
            self._taken[step] = None if taken is None else taken + nbytes
            while len(self._taken) > _STEPS:
                forgotten = next(iter(self._taken))
                self._largest = max(self._largest, self._taken.pop(forgotten) or 0)
                self._forgotten = max(self._forgotten, forgotten)
            return taken is not None

    def ended(self, step: int, waiting: int) -> None:
        """A step is sealed.

        Args:
            step: which.
            waiting: bytes that wait with it.
        """
        with self._lock:
            self._largest = max(self._largest, self._taken.pop(step, 0) or 0)
            self.waiting = waiting
