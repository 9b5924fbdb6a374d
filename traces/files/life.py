"""Who may still write a run: the one rule, for all who ask.

A process holds the lock of its rank as long as it lives. Where locks are seen they decide: who
holds one lives, and who left one behind on this machine has died. They are not seen from another
machine, nor in an object store. There it is the time of what was written last. Rank 0 touches
run.json about every 20 seconds, and says there that it has ended, of itself alone: of other ranks
there is no more than their streams, which they touch when they record something, however rarely
that is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from optgeom.traces.files.lock import has_died, holder, is_held, living, lock_file
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import RUN_FILE, RunInfo
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.schema import TABLES

BEAT_SECONDS = 60.0
"""A run of one process that lives is touched more often than this, three times over."""

QUIET_SECONDS = 3600.0
"""Of several processes that are not seen from here, one may record nothing for so long."""


def heard_from(info: RunInfo, entries: Mapping[str, Entry]) -> float | None:
    """How many seconds ago a run was touched that seems to be alive; None where it does not.

    Args:
        info: what run.json says: a run that has ended does not.
        entries: the files of the trace, or run.json alone.
    """
    ago = _quiet(entries)
    return None if info.is_over or ago > BEAT_SECONDS else ago


class Life:
    """Which files of a trace a process may still write.

    What it says holds for the moment in which it was made.

    Args:
        place: the trace's folder.
        info: what run.json says; None: nothing that can be read.
        entries: the trace's files.
    """

    def __init__(self, place: Place, info: RunInfo | None, entries: Mapping[str, Entry]):
        self._folder = place.local() if place.is_local else None
        self._living = () if self._folder is None else living(self._folder)
        self._is_told = info is not None
        self._newest = 0 if info is None else info.newest
        self._is_over = info is not None and info.is_over
        self._ago = _quiet(entries)
        names = (_stream(path) for path in entries)
        self._streams = sorted({name for name in names if name is not None})
        ranks = max((name.rank + 1 for name in self._streams), default=1)
        self._processes = max(1 if info is None else info.world_size, ranks)

    def of(self, stream: PartName) -> str:
        """Why a stream may still be written, and what to wait for; empty where it may not."""
        rank = stream.rank
        if stream.attempt < self._newest:
            # whoever resumed it has the lock of rank 0; another rank may have outlived that
            if rank and self._folder is not None and is_held(self._folder, lock_file(rank)):
                return self._writing(holder(self._folder, lock_file(rank)))
            return ""
        if self._living:
            return self._writing(*self._living)
        if self._folder is not None and has_died(self._folder, lock_file(rank)):
            return ""
        if rank == 0 and self._is_over:
            return ""
        return self._may_be_unseen()

    def anyone(self) -> str:
        """Why run.json, or any stream that is there, may still be written; empty if none may."""
        rank_0 = PartName(self._newest, 0, 0)
        return next((why for one in (rank_0, *self._streams) if (why := self.of(one))), "")

    def _writing(self, *who: str) -> str:
        verb = "is" if len(who) == 1 else "are"
        return f"{', '.join(who)} {verb} writing it: wait until that has ended"

    def _may_be_unseen(self) -> str:
        told = f"written {max(self._ago, 0):.0f} s ago"
        if self._processes == 1:
            if self._ago > BEAT_SECONDS:
                return ""
            if not self._is_told:
                return (
                    f"{RUN_FILE} cannot be read, so it is not known whether a process writes "
                    f"({told}): wait until it has been quiet for a minute"
                )
            return f"{told}, it may be alive: wait until it has been quiet for a minute"
        if self._ago > QUIET_SECONDS:
            return ""
        return (
            f"{told} by a run of {self._processes} processes, of which one may be alive without "
            "being seen from here: wait until the run has been quiet for an hour"
        )


def _quiet(entries: Mapping[str, Entry]) -> float:
    """Seconds since anything changed that the processes of a run write."""
    found = [
        one.changed
        for path, one in entries.items()
        if path == RUN_FILE or path.partition("/")[0] in TABLES
    ]
    return time.time() - max(found, default=0) / 1e9


def _stream(path: str) -> PartName | None:
    """The stream that a file is, or is the checksums of."""
    folder, _, file = path.rpartition("/")
    if folder not in TABLES:
        return None
    name = parse_name(file.removesuffix(".sums") + ".arrows" if file.endswith(".sums") else file)
    return None if name is None or name.digest else name
