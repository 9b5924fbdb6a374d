"""Which raw matrices may still wait on this machine for an object store that is behind."""

from __future__ import annotations

import threading

_STEPS = 64


class Room:
    """Decides for whole steps, so that no matrix is there in part.

    Args:
        limit: bytes that may wait.

    Attributes:
        waiting: bytes that wait, as last measured.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.waiting = 0
        self._largest = 0
        self._steps: dict[int, bool] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def takes(self, step: int, nbytes: int) -> bool:
        """Whether some bytes of a step may wait; the first ones decide for all of them."""
        with self._lock:
            if step not in self._steps:
                self._steps[step] = self.waiting + max(self._largest, nbytes) <= self.limit
                while len(self._steps) > _STEPS:
                    self._steps.pop(next(iter(self._steps)))
            if self._steps[step]:
                self._sizes[step] = self._sizes.get(step, 0) + nbytes
            return self._steps[step]

    def ended(self, step: int, waiting: int) -> None:
        """A step is sealed.

        Args:
            step: which.
            waiting: bytes that wait with it.
        """
        with self._lock:
            self._steps.pop(step, None)
            self._largest = max(self._largest, self._sizes.pop(step, 0))
            self.waiting = waiting
