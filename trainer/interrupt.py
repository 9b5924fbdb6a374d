"""Ctrl-C, or a scheduler's SIGTERM, between two steps instead of in the middle of one.

A run that is stopped while a rank waits in a collective hangs the others. So the first signal is
only noted; the ranks agree at the end of a step and all leave together, closing what they opened.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

SAME_SIGNAL_SECONDS = 1.0
"""A launcher forwards the Ctrl-C that the terminal has sent to its workers already."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __bool__(self) -> bool:
        return self._since is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: remember the first, obey the second at once.

        Raises:
            KeyboardInterrupt: Asked again more than a second later.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning("stopping after this step; once more stops at once")
        elif now - self._since > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM while the block runs, then put the former handlers back.

    Outside the main thread, where Python allows no handlers, nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, request.note) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
