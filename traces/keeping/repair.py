"""Setting damaged files of a trace aside, so that it opens, with all of them that is whole.

Nothing is deleted: files are moved to the run's folder `damaged`, which no reader looks at. What
stands for a file appears before the file is moved, so whoever is killed between two steps has lost
nothing, and the next repair goes on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from optgeom.traces.errors import DamagedTrace, NotATrace, TraceError
from optgeom.traces.files.durable import fsync_folder, replace_file
from optgeom.traces.files.inside import check_links
from optgeom.traces.files.life import Life
from optgeom.traces.files.listing import trace_entries
from optgeom.traces.files.lock import COMPACT_LOCK, LOCK_FILE, Lock, holder
from optgeom.traces.files.place import Entry, Place, find
from optgeom.traces.format.whole import Checked, check_part
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo, parse
from optgeom.traces.keeping.rescue import Source, rescue_segment, rescue_stream
from optgeom.traces.keeping.verify import parts_of, schema_of_streams, standing
from optgeom.traces.names import SET_ASIDE, TEMPORARY, PartName, is_stream, parse_name, superseded

README = "README.txt"
_LEFT_SECONDS = 3600.0
_ABOUT = """\
Files that `optgeom trace verify --repair` set aside. Nothing was deleted. What was whole of them
stands in the run's folder again, as said below; readers do not look in here. Remove this folder if
you want none of it back.

"""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a repair did, or could not do.

    Attributes:
        file: relative to the trace.
        moved: where it was moved to, relative to the trace; empty where it was left, or missing.
        reason: why, in one line.
        rescued: rows of it that stand in the trace again.
        into: the segment that holds them; empty where there is none.
        damage: something was wrong with it; otherwise it was only in the way.
        made_from: what it was made anew from, relative to the trace, where it was missing.
    """

    file: str
    moved: str
    reason: str
    rescued: int = 0
    into: str = ""
    damage: bool = True
    made_from: str = ""

    def __str__(self) -> str:
        """In one line."""
        if self.made_from:
            return f"{self.file} was {self.reason}: made anew from {self.made_from}"
        if not self.moved:
            return f"{self.file} is left as it is: {self.reason}"
        line = f"{self.file} was moved to {self.moved}: {self.reason}"
        return f"{line}. {self.rescued:,} rows of it are in {self.into}" if self.into else line

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def repair(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> tuple[Action, ...]:
    """Set the damaged files of a trace aside, and put what is whole of them in their place.

    Row groups and batches whose own checksums are right are rescued, and batches that have none, as
    far as Arrow reads them; run.json is restored from its copy. Streams for which there is a
    segment, and what killed writers left an hour ago, go to `damaged` too. A trace that is whole is
    left as it is.

    Args:
        path: the trace's folder.
        progress: called with the number of files read, and of all.

    Returns:
        What was done, in order; it stands in `damaged/README.txt` too.

    Raises:
        TraceError: the trace is in an object store, is being written or compacted, or the folder
            cannot be written.
        NotATrace: there is no run.json, nor a copy of one.
        SchemaTooNew: a newer optgeom wrote it.
    """
    place = find(path)
    if not place.is_local:
        raise TraceError(
            f"{place.shown} is in an object store, where files cannot be moved: copy it to a local "
            "folder, repair it there, and copy it back"
        )
    if not place.has(RUN_FILE) and not place.has(RUN_COPY):
        raise NotATrace(f"{place.shown} is no trace, for it holds no {RUN_FILE}")
    try:
        with _alone(place):
            return tuple(_Repair(place, progress).run())
    except OSError as error:
        raise TraceError(
            f"{place.shown} cannot be written: {error.strerror or error}: "
            "make room, or see to its permissions, and repair again"
        ) from error


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Keep writers and compactions out of a trace for the length of a block."""
    folder, held = place.local(), []
    info, _ = _read(place)
    # before its own locks are among those of the living
    may_live = Life(place, info, trace_entries(place, {})).anyone()
    if may_live:
        raise TraceError(f"{place.shown} may not be repaired now: {may_live}, and repair it then")
    try:
        for file, doing in ((LOCK_FILE, "written"), (COMPACT_LOCK, "compacted")):
            lock = Lock.take(folder, file)
            if lock is None:
                raise TraceError(
                    f"{place.shown} is being {doing} by {holder(folder, file)}: "
                    "repair it when that has ended"
                )
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.release()


def _read(place: Place) -> tuple[RunInfo | None, str]:
    """What run.json says, or else its copy; and what is wrong with run.json."""
    reason = ""
    for file in (RUN_FILE, RUN_COPY):
        try:
            return parse(place.read(file), place.of(file)), reason
        except FileNotFoundError:
            reason = reason or f"{place.of(file)} is missing"
        except DamagedTrace as error:
            reason = reason or str(error)
    return None, reason


class _Repair:
    def __init__(self, place: Place, progress: Callable[[int, int], None] | None):
        self._place, self._folder = place, place.local()
        self._progress = progress
        self._checked: dict[str, Checked] = {}
        self._actions: list[Action] = []
        self._info: RunInfo | None = None

    def run(self) -> list[Action]:
        check_links(self._place.root, SET_ASIDE)
        self._set_odd_aside()
        self._restore_run()
        while self._mend_one():
            pass
        self._clear()
        return self._actions

    def _set_odd_aside(self) -> None:
        """Set aside what is called like a file of a trace, and is none: nothing else is listed."""
        odd: dict[str, str] = {}
        trace_entries(self._place, odd)
        for file, kind in sorted(odd.items()):
            self._set_aside(file, f"it is no file but {kind}")

    def _restore_run(self) -> None:
        self._info, reason = _read(self._place)
        if not reason:
            self._restore_copy()
            return
        reason = self._reason(RUN_FILE, reason)
        if self._info is None:
            self._actions.append(Action(RUN_FILE, "", f"{reason}; and no copy of it is whole"))
            return
        final = self._folder / RUN_FILE
        moved = ""
        if final.exists():
            # copied, not moved: a folder without it is no trace
            moved = self._target(f"{RUN_FILE}.damaged")
            self._note(Action(RUN_FILE, moved, f"{reason}. Its copy stands in its place"))
            self._write(self._folder / moved, final.read_bytes())
        else:
            self._note(Action(RUN_FILE, "", "missing", made_from=RUN_COPY))
        self._write(final, (self._folder / RUN_COPY).read_bytes())

    def _restore_copy(self) -> None:
        """run.json is whole: a copy that is not is made anew."""
        copy = self._folder / RUN_COPY
        if not copy.exists():
            return
        try:
            parse(self._place.read(RUN_COPY), self._place.of(RUN_COPY))
        except DamagedTrace as error:
            moved = self._target(f"{RUN_COPY}.damaged")
            self._note(Action(RUN_COPY, moved, f"{error}. It was made anew from {RUN_FILE}"))
            self._write(self._folder / moved, copy.read_bytes())
            self._write(copy, (self._folder / RUN_FILE).read_bytes())

    def _mend_one(self) -> bool:
        """Look for a damaged file among those that count, and set it aside; False: none is left.

        Others may count once it has gone: those that it stood for.
        """
        entries = trace_entries(self._place)
        parts, gone = parts_of(entries), standing(entries)
        active = [file for file in sorted(parts) if file not in gone]
        for count, file in enumerate(active, start=1):
            name = parts[file]
            if file not in self._checked:
                self._checked[file] = self._check(file, name)
            if self._progress is not None:
                self._progress(count, len(active))
            if self._checked[file].message:
                behind = {one: parts[one] for one, other in gone.items() if other == file}
                self._mend(Source(file, name, self._check(file, name, keep=True)), behind, entries)
                return True
        return False

    def _check(self, file: str, name: PartName, *, keep: bool = False) -> Checked:
        found = check_part(self._place, file, name, schema_of_streams(file, self._info))
        # what is written anew is read again: not all streams of a run in memory at once
        return found if keep else replace(found, batches=())

    def _mend(
        self, own: Source, behind: Mapping[str, PartName], entries: Mapping[str, Entry]
    ) -> None:
        found, name = own.checked, own.name
        stay, go = self._behind(behind, entries)
        reason = self._reason(own.path, found.message)
        if found.lost:
            reason += f". {'Not readable in it' if stay else 'Lost'}: {found.lost}"
        runs = _runs({*range(name.sequence, name.last + 1)}.difference(*map(_sequences, stay)))
        into, rows = "", 0
        if not runs:
            reason += ". What it was made of is still there, and counts again"
        elif found.footer is not None and found.groups:
            if stay:
                reason += f". {_counted(stay)} again"
            # one run, unless somebody put files back: which of them a row was in is not known
            first, last = runs[0]
            name = replace(name, sequence=first, digest="", more=last - first)
            into, rows = rescue_segment(self._place, own, name, stay=stay, go=go)
            for one in go:
                message = self._reason(one.path, one.checked.message)
                there = f". {into.rpartition('/')[2]} has what was whole of it" if into else ""
                self._set_aside(one.path, f"{message}{there}{_unchecked(one.checked)}")
        elif found.batches:
            made = rescue_stream(self._place, own.path, name, found.batches)
            into = f"{own.path.rpartition('/')[0]}/{made.name}"
            rows = found.rows + found.unchecked
            reason += _unchecked(found)
        self._set_aside(own.path, reason, rows, into)

    def _behind(
        self, behind: Mapping[str, PartName], entries: Mapping[str, Entry]
    ) -> tuple[list[Source], list[Source]]:
        """What a part was made of, as far as it is there: what is whole, and will count; and not.

        What is neither is a part of something whole.
        """
        found = [Source(*one, self._check(*one, keep=True)) for one in behind.items()]
        whole = [one for one in found if not one.checked.message]
        covered = superseded({one.name: entries[one.path].size for one in whole})
        damaged = [one for one in found if one.checked.message]
        return (
            [one for one in whole if one.name not in covered],
            [one for one in damaged if not any(other.name.covers(one.name) for other in whole)],
        )

    def _reason(self, file: str, message: str) -> str:
        """Why, without the file's name, which stands before it, and without what is done now."""
        for word in (self._place.of(file), "is damaged:"):
            message = message.removeprefix(word).lstrip()
        message = message.replace(f"beside {self._place.of(file)}", "beside it")
        return re.sub(r"\. Restore (it|them) from a copy$", "", message)

    def _clear(self) -> None:
        """Set aside what no reader counts: sealed streams, and what killed writers left."""
        entries = trace_entries(self._place)
        parts, gone = parts_of(entries), standing(entries)
        for file, by in sorted(gone.items()):
            if not parts[file].digest:
                self._set_aside(file, f"{by.rpartition('/')[2]} stands for it", damage=False)
        for file, entry in sorted(trace_entries(self._place).items()):
            folder, _, name = file.rpartition("/")
            if name.startswith(TEMPORARY) and time.time() - entry.changed / 1e9 > _LEFT_SECONDS:
                self._set_aside(file, "a writer that was killed left it", damage=False)
            elif is_stream(file) and name.endswith(".sums"):
                stream = f"{folder}/{name.removesuffix('.sums')}.arrows"
                if not (self._folder / stream).exists() and parse_name(stream.rpartition("/")[2]):
                    self._set_aside(file, "there is no stream beside it", damage=False)

    def _set_aside(
        self, file: str, reason: str, rescued: int = 0, into: str = "", *, damage: bool = True
    ) -> None:
        moved = self._target(file)
        self._note(Action(file, moved, reason, rescued, into, damage))
        self._move(file, moved)
        name = parse_name(file.rpartition("/")[2])
        if name is not None and not name.digest:
            # the checksums last: a reader may meet them without a stream, not the other way round
            sums = f"{file.rpartition('/')[0]}/{name.sums}"
            if (self._folder / sums).exists():
                self._move(sums, self._target(sums))

    def _move(self, file: str, moved: str) -> None:
        source, target = self._folder / file, self._folder / moved
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        fsync_folder(target.parent)
        fsync_folder(source.parent)

    def _target(self, file: str) -> str:
        """Where a file goes; no other is there."""
        moved, number = f"{SET_ASIDE}/{file}", 2
        while (self._folder / moved).exists():
            moved, number = f"{SET_ASIDE}/{file}.{number}", number + 1
        return moved

    def _note(self, action: Action) -> None:
        """Write down what comes next, before it is done."""
        self._actions.append(action)
        readme = self._folder / SET_ASIDE / README
        readme.parent.mkdir(exist_ok=True)
        with readme.open("a", encoding="utf-8", errors="backslashreplace") as file:
            if not file.tell():
                file.write(_ABOUT)
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}  {action}\n")
            file.flush()
            os.fsync(file.fileno())

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)


def _sequences(one: Source) -> range:
    return range(one.name.sequence, one.name.last + 1)


def _runs(sequences: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of numbers without a gap, ascending."""
    found: list[tuple[int, int]] = []
    for one in sorted(sequences):
        if found and found[-1][1] + 1 == one:
            found[-1] = (found[-1][0], one)
        else:
            found.append((one, one))
    return found


def _counted(files: Sequence[Source]) -> str:
    count = len(files)
    return f"{count} files that it was made of count" if count > 1 else "1 of its sources counts"


def _unchecked(found: Checked) -> str:
    """What to say of rows that were believed without checksums."""
    rows = f"{found.unchecked:,} rows of it have" if found.unchecked > 1 else "1 row of it has"
    return f". {rows} no checksum, and may have changed" if found.unchecked else ""
