"""The wall between our failures and the training run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        """Stop the capture and say why; later failures follow from the first and are not said."""
        if self.error is not None:
            return
        self.error = error
        logger.error(
            "capture stopped, training goes on: %s: %s", type(error).__name__, error, exc_info=error
        )
        self._on_failure()

    @contextmanager
    def harmless(self) -> Iterator[None]:
        """Run a block of ours; an error in it stops the capture and nothing else."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- the one place where the run is protected
            self.fail(error)
