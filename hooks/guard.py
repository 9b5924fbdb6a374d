"""The wall between our failures and the training run."""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

logger = logging.getLogger(__name__)


class Guard:
    """Keeps the first failure of the capture, says it once, and lets nothing through."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        """Begin without a failure.

        Args:
            on_failure: called once, with the first failure; records that capture has stopped.
        """
        self._on_failure = on_failure
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Stop the capture and say why; later failures follow from the first and are not said.

        Raises:
            Exception: `error` itself, where a signal's handler raised it: it is the program's.
        """
        if is_of_a_signal(error):
            raise error
        if self.error is not None:
            return
        self.error = error
        logger.error(
            "capture stopped, training goes on: %s: %s", type(error).__name__, error, exc_info=error
        )
        self._on_failure()

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Run a block of ours; an error in it stops the capture and nothing else.

        What a signal's handler raises meanwhile, such as that of an alarm, passes, as Ctrl-C does.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- the one place where the run is protected
            self.fail(error)


def is_of_a_signal(error: BaseException) -> bool:
    """Whether it is Ctrl-C, or comes out of a signal's handler: they run between any two lines.

    It is told by the handlers that are set now: one that raises after another was set in its place
    is not seen.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    handlers = {id(_code_of(signal.getsignal(number))) for number in signal.valid_signals()}
    return any(id(frame.f_code) in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: object) -> object:
    while isinstance(handler, partial):
        handler = handler.func
    if callable(handler) and not hasattr(getattr(handler, "__func__", handler), "__code__"):
        handler = type(handler).__call__
    return getattr(getattr(handler, "__func__", handler), "__code__", None)
