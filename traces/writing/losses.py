"""What a writer leaves out: counted, and said once for each kind; and what made it give up."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from pathlib import Path

_LOG = logging.getLogger("optgeom.traces.writer")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Losses:
    """Counts of records, or of values in them, that are not in the trace.

    Args:
        shown: the trace, as it may be named in the log.

    Attributes:
        counts: table, or table.column -> how many.
    """

    def __init__(self, shown: str):
        self._shown = shown
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many, of all kinds."""
        return self.counts.total()

    def drop(self, what: str, reason: str, count: int = 1) -> None:
        """Leave something out; the log has the reason of the first one."""
        if not self.counts[what]:
            _LOG.warning("%s: records of %s are left out: %s", self._shown, what, reason)
        self.add(what, count)

    def say_failure(self, error: BaseException, spool: Path | None) -> None:
        """Say that nothing more will be written, why, and what can be done.

        Args:
            error: what failed.
            spool: where records lie on their way to an object store; None: there is none.
        """
        is_full = isinstance(error, OSError) and error.errno in _FULL
        where = "the disk of the trace"
        if spool is not None:
            where = f"the disk of {spool}, where records wait for the store (TMPDIR moves it),"
        _LOG.error(
            "%s: writing the trace failed, the run goes on without: %r%s. What is there can be "
            "read; nothing more is written%s: only a resume (start_step=) writes again",
            self._shown,
            error,
            f"; {where} is full" if is_full else "",
            ", also when there is room" if is_full else "",
        )

    def add(self, what: str, count: int) -> None:
        """Count without a word: it follows from a failure that has been told."""
        if count:
            self.counts[what] += count
