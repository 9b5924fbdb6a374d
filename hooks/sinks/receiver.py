"""One sink of a run that goes on: who uses it, and what is said when it fails."""

from __future__ import annotations

import logging
import os
import threading
from weakref import WeakValueDictionary

from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.due import Due
from optgeom.hooks.sinks.sink import Sink, name_of, refusal, told
from optgeom.traces.errors import OptgeomError

logger = logging.getLogger(__name__)

_used: WeakValueDictionary[tuple[int, int], Receiver]
_claiming = threading.Lock()


class Receiver:
    """A sink between `open` and `close`, of one recorder at a time.

    Attributes:
        sink: where numbers go.
        name: what messages call it.
        due: what of the trace it gets next.
        seconds: of this processor that looking and sending took, so far.
    """

    def __init__(self, sink: Sink, *, first: int) -> None:
        """Be ready.

        Args:
            sink: where numbers go.
            first: step of this attempt.
        """
        self.sink, self.name = sink, name_of(sink)
        self.due = Due(first)
        self.seconds = 0.0
        self._key = (os.getpid(), id(sink))
        self._is_open = False

    def open(self, run: str) -> None:
        """Open the sink.

        Args:
            run: its name.

        Raises:
            WatchError: it does not begin, or another recorder has not done with it.
        """
        with _claiming:
            if self._key in _used:
                raise WatchError(
                    f"this {self.name} still takes the numbers of another recorder, or has not "
                    "yet taken what is left of a run before: close that recorder first, or give "
                    f"each run a {self.name} of its own"
                )
            _used[self._key] = self
        try:
            self.sink.open(run)
        except BaseException as error:
            self._release()
            if isinstance(error, OptgeomError) or not isinstance(error, Exception):
                raise
            raise refusal(f"{self.name}.open raised {type(error).__name__}", error)  # noqa: B904 -- it sets the cause
        self._is_open = True

    def close(self) -> None:
        """Close the sink, once; from here on another recorder may use it.

        Raises:
            BaseException: what is no Exception.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            self.sink.close()
        except Exception as error:  # noqa: BLE001 -- the run has ended well without it
            logger.warning("%s.close raised %s", self.name, said(error))
        finally:
            self._release()

    def _release(self) -> None:
        with _claiming:
            if _used.get(self._key) is self:
                del _used[self._key]


# a receiver that nobody holds any more, of a recorder that was never made, bars nobody; while one
# is held it holds its sink, so that no other object can have the sink's id
_used = WeakValueDictionary()


def said(error: BaseException) -> str:
    """The kind of an exception and its text, as it may be shown."""
    return f"{type(error).__name__}: {told(error)}"
