"""What a writer leaves out: counted, and said once for each kind."""

from __future__ import annotations

import logging
from collections import Counter

_LOG = logging.getLogger("optgeom.traces.writer")


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

    def drop(self, what: str, reason: str, count: int = 1) -> None:
        """Leave something out; the log has the reason of the first one."""
        if not self.counts[what]:
            _LOG.warning("%s: records of %s are left out: %s", self._shown, what, reason)
        self.add(what, count)

    def add(self, what: str, count: int) -> None:
        """Count without a word: it follows from a failure that has been told."""
        if count:
            self.counts[what] += count
