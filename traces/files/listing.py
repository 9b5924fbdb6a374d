"""Which files a trace has: listed once, and again only where a folder has changed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import RUN_FILE
from optgeom.traces.names import SET_ASIDE, TEMPORARY, is_stream, parse_name
from optgeom.traces.schema import TABLES

DERIVED = "derived"
ABOUT_SET_ASIDE = "README.txt"
TRIES = 8
_SETTLED_NS = 2_000_000_000
_LIST_AGAIN_SECONDS = 30.0
_PAGE = 1000


class Listing:
    """The files of one trace.

    Args:
        place: the trace's folder.
    """

    def __init__(self, place: Place):
        self._place = place
        self._entries: Mapping[str, Entry] = {}
        self._times: Mapping[str, int] | None = None
        self._listed = 0.0

    def look(self, *, anew: bool = False) -> Mapping[str, Entry]:
        """The files as they are now, by relative path, without those that are being written.

        Args:
            anew: list the folders whatever their times say: a file of theirs has gone.
        """
        times = self._folder_times()
        fresh = not anew and time.monotonic() - self._listed < _LIST_AGAIN_SECONDS
        if fresh and times is not None and times == self._times:
            same = self._sizes_again()
            if same is not None:
                self._entries = same
                return same
        now, self._listed = time.time_ns(), time.monotonic()
        entries = self._list()
        # a folder that has just changed may change again without a new time: list it next time too
        settled = times is not None and max(times.values(), default=0) < now - _SETTLED_NS
        self._times = times if settled else None
        self._entries = {
            path: entry
            for path, entry in entries.items()
            if not path.rpartition("/")[2].startswith(TEMPORARY)
        }
        return self._entries

    def _list(self) -> dict[str, Entry]:
        entries = trace_entries(self._place)
        if self._place.lists_by_name and len(entries) < _PAGE:
            # a stream's name comes before its segment's: where it had gone, that is shown; and of
            # one page, what was merged meanwhile is shown before or after, not between
            return entries
        for _ in range(TRIES):
            # a listing is not atomic: one made while files were replaced may show neither
            again = trace_entries(self._place)
            same = again.keys() == entries.keys()
            entries = again
            if same:
                break
        return entries

    def _folder_times(self) -> dict[str, int] | None:
        """When each folder changed, in nanoseconds; None where the file system is not local."""
        if not self._place.is_local:
            return None
        root = self._place.root
        folders = [root, *(f"{root}/{table}" for table in TABLES), f"{root}/{DERIVED}"]
        try:
            with os.scandir(folders[-1]) as found:
                folders += [one.path for one in found if one.is_dir()]
        except FileNotFoundError:
            pass
        times = {}
        for folder in folders:
            try:
                times[folder] = os.stat(folder).st_mtime_ns
            except FileNotFoundError:
                continue
        return times

    def _sizes_again(self) -> dict[str, Entry] | None:
        """The same files, with what may grow in place looked at; None if one of them has gone."""
        entries = dict(self._entries)
        for path in entries:
            if path == RUN_FILE or is_stream(path):
                try:
                    found = os.stat(f"{self._place.root}/{path}")
                except FileNotFoundError:
                    return None
                entries[path] = Entry(found.st_size, found.st_mtime_ns)
        return entries


def file_sizes(folder: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    """Name and bytes of each file below a local folder, hidden ones too.

    It measures what others change meanwhile: what goes while it looks, or cannot be looked at, is
    left out.
    """
    for base, _, files in os.walk(folder):
        for file in files:
            try:
                found = os.lstat(os.path.join(base, file))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield file, found.st_size


def trace_entries(place: Place, odd: dict[str, str] | None = None) -> dict[str, Entry]:
    """The files of a trace by relative path; other people's files beside it are not looked at.

    Args:
        place: the trace's folder.
        odd: gets what is called like a file of a trace and is none, and what it is instead; None:
            that is an error.

    Raises:
        DamagedTrace: see inside.local_files.
        TraceError: an object store does not answer.
    """
    entries = {
        path: entry
        for path, entry in place.entries(recursive=False).items()
        if path == RUN_FILE or path.startswith(TEMPORARY)
    }
    for folder in (*TABLES, DERIVED):
        entries |= place.entries(folder, odd=odd)
    return entries


def has_records(place: Place) -> bool:
    """Whether there are files called like those of a table: a run's, also without its run.json."""
    for table in TABLES:
        try:
            files = place.entries(table, recursive=False)
        except DamagedTrace:
            continue  # a link out, or no folder: nothing says that it is a run's
        if any(parse_name(file.rpartition("/")[2]) is not None for file in files):
            return True
    return False


def set_aside(place: Place) -> int:
    """How many files a repair has moved out of readers' way; what they are is not looked at."""
    if place.is_local:
        found = [name for _, _, files in os.walk(f"{place.root}/{SET_ASIDE}") for name in files]
    else:
        found = [file.rpartition("/")[2] for file in place.entries(SET_ASIDE)]
    return sum(name != ABOUT_SET_ASIDE for name in found)
