"""Many small segments into few: the files of a long run, without a change of any value.

A merged segment is made aside, flushed to the disk, read back with every checksum, and then put in
its place, where readers take it instead of those that it was made of. Only then are these removed.
So whenever the process dies, nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.files.life import Life
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.format.wal import read_stream, refuse_uncounted
from optgeom.traces.info import RUN_FILE, RunInfo
from optgeom.traces.keeping.compact_files import aside, locked, read_back, remove, sealing, settle
from optgeom.traces.keeping.compact_merge import DamagedInput, Input, merge
from optgeom.traces.keeping.compact_plan import LIMITS, Candidate, plan
from optgeom.traces.keeping.compact_survey import Merge, Survey, candidate, files_of, survey
from optgeom.traces.keeping.compacted import Compacted, Left, Merged
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.schema import MERGED_SINCE, SCHEMA_VERSION, sealed
from optgeom.traces.trace import open_trace
from optgeom.traces.writing.attempts import update_run
from optgeom.traces.writing.runfile import read_run


def compact(
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
) -> Compacted:
    """Merge the segments of each table, attempt and rank; seal the streams of ended processes.

    No value changes. Later analyses under `derived/` stay as they are, as does what a live process
    is writing; readers that have the trace open go on reading it. A trace of schema 1 becomes one
    of schema 2.

    It takes as much room as the largest merged segment, in the trace's folder or, of an object
    store, in TMPDIR; and some 200 MB of memory, however large the trace is.

    Args:
        path: the trace's folder or URI.
        progress: called with the number of parts dealt with, and of all that there are to do.
        dry_run: change nothing, and say what would be done.

    Raises:
        NotATrace: there is no run.json.
        SchemaTooNew: a newer optgeom wrote it.
        DamagedTrace: run.json is damaged; or what was written does not read back, and what it was
            made of is still there.
        TraceError: another process compacts it, an older optgeom writes it, or the place cannot be
            written.
    """
    began = time.monotonic()
    place = open_trace(path).place
    if dry_run:
        found = survey(place, _read(place))
        size = sum(one.size for one in found.entries.values())
        return Compacted(
            place.shown,
            True,
            len(found.entries),
            found.files_after,
            size,
            size,
            tuple(found.streams),
            tuple(file for one in found.replaced for file in one.files),
            tuple(_would_merge(one) for one in found.merges),
            tuple(found.left),
            time.monotonic() - began,
        )
    with locked(place):
        info = _read(place)  # nobody else compacts it from here on
        found = survey(place, info)
        work = _Work(place, info, found, progress)
        try:
            work.run()
        except OSError as error:
            raise TraceError(
                f"{place.shown} cannot be compacted: {error.strerror or error}. What was merged "
                "before stays merged, the rest is as it was: make room, and compact again"
            ) from error
        entries = files_of(place)
    return Compacted(
        place.shown,
        False,
        len(found.entries),
        len(entries),
        sum(one.size for one in found.entries.values()),
        sum(one.size for one in entries.values()),
        tuple(work.sealed),
        tuple(work.removed),
        tuple(work.merged),
        tuple(work.left),
        time.monotonic() - began,
    )


class _Work:
    """One compaction.

    Args:
        place: the trace's folder.
        info: what run.json says.
        found: what there is to do.
        progress: see compact.

    Attributes:
        sealed: streams that became segments.
        removed: files that others stood for before.
        merged: what became one segment.
        left: what is left as it is, and why.
    """

    def __init__(
        self,
        place: Place,
        info: RunInfo,
        found: Survey,
        progress: Callable[[int, int], None] | None,
    ):
        self._place, self._info, self._found, self._progress = place, info, found, progress
        self._done = 0
        self.sealed: list[str] = []
        self.removed: list[str] = []
        self.merged: list[Merged] = []
        self.left = [*found.left]

    def run(self) -> None:
        """Do it."""
        if self._found.merges:
            self._refuse_old_writer()
        self._clear()
        with aside(self._place) as folder:
            segments = {
                path: self._seal(path, name, folder) for path, name in self._found.streams.items()
            }
            for one in self._found.merges:
                parts = [
                    part if part.name.digest else segments[f"{one.table}/{part.name.file}"]
                    for part in one.parts
                ]
                self._merge(one.table, [part for part in parts if part is not None], folder)

    def _clear(self) -> None:
        """Remove what others stand for, such as after a compaction that was killed."""
        for one in self._found.replaced:
            try:
                read_back(self._place, one.by)
            except DamagedTrace as error:
                why = f"{error}. What it was made of is still there, and stays"
                self.left.append(Left(one.by, why, True))
                continue
            for file in one.files:
                self._remove(file)
            self.removed += one.files
        for file in self._found.orphans:
            self._remove(file)
            self.removed.append(file)

    def _seal(self, path: str, name: PartName, folder: Path) -> Candidate | None:
        """Make a segment of a stream; None where there is none to merge."""
        table = path.partition("/")[0]
        sums = f"{table}/{name.sums}"
        self._count(1)
        try:
            # the checksums after what they are of, which may still grow in an object store
            data, lines = self._place.read(path), self._place.read(sums)
            batches, position = read_stream(data, lines, self._place.of(path))
            refuse_uncounted(data, position.offset, self._place.of(path))
        except FileNotFoundError:
            why = f"{self._place.of(path)} or {name.sums} is missing"
            self.left.append(Left(path, why, True))
            return None
        except DamagedTrace as error:
            self.left.append(Left(path, str(error), True))
            return None
        made = None
        if batches:
            rows = pa.Table.from_batches(batches)
            schema = sealed(rows.schema)
            with sealing(folder, name, schema) as writer:
                writer.write_sorted(one_chunk(rows.cast(schema)))
                segment = writer.seal()
            made = settle(self._place, table, segment, rows.num_rows, self._changed([path, sums]))
        self._remove(path)
        self._remove(sums)
        self.sealed.append(path)
        if made is None:
            return None
        found = parse_name(made.rpartition("/")[2])
        assert found is not None
        return candidate(self._place, made, found)

    def _merge(self, table: str, parts: list[Candidate], folder: Path) -> None:
        """Merge neighbours; where one of them is damaged, those on either side of it."""
        todo = plan(parts, LIMITS[table])
        while todo:
            group = todo.pop()
            paths = [f"{table}/{one.name.file}" for one in group]
            try:
                self._merge_whole(Merge(table, group), paths, folder)
            except DamagedInput as error:
                self.left.append(Left(error.path, str(error), True))
                rest = [one for one, path in zip(group, paths, strict=True) if path != error.path]
                todo += plan(rest, LIMITS[table])
            except FileNotFoundError as error:
                self.left.append(Left(paths[0], f"a neighbour went meanwhile: {error}", False))
        self._count(len(parts))

    def _merge_whole(self, group: Merge, paths: list[str], folder: Path) -> None:
        with ExitStack() as opened:
            inputs = [
                opened.enter_context(closing(Input(self._place, path, one.name)))
                for path, one in zip(paths, group.parts, strict=True)
            ]
            with sealing(folder, group.name, inputs[0].schema) as writer:
                rows = merge(inputs, writer)
                made = writer.seal()
        self._announce()
        into = settle(self._place, group.table, made, rows, self._changed(paths))
        for path in paths:
            self._remove(path)
        size = sum(one.size for one in group.parts)
        self.merged.append(Merged(group.table, into, len(paths), rows, size))

    def _announce(self) -> None:
        """Have run.json say that there are merged segments, before there are any."""
        if self._info.schema >= MERGED_SINCE:
            return
        where = self._place.local() if self._place.is_local else self._place
        changed = self._changed([RUN_FILE])
        self._info = update_run(where, replace(self._info, schema=SCHEMA_VERSION))
        if self._place.is_local:
            # nobody writes it, and it shall not look as if
            os.utime(self._place.local() / RUN_FILE, ns=(changed, changed))

    def _refuse_old_writer(self) -> None:
        why = Life(self._place, self._info, self._found.entries).anyone()
        if self._info.schema < MERGED_SINCE and why:
            raise TraceError(
                f"{self._place.shown} is of schema {self._info.schema}, and an older optgeom that "
                f"reads no merged segments may be writing it ({why}): compact it when that has "
                "ended"
            )

    def _changed(self, paths: list[str]) -> int:
        entries: Mapping[str, Entry] = self._found.entries
        found = [entries[path].changed for path in paths if path in entries]
        return max(found, default=time.time_ns())

    def _remove(self, path: str) -> None:
        remove(self._place, path)

    def _count(self, parts: int) -> None:
        self._done += parts
        if self._progress is not None:
            self._progress(self._done, self._found.todo)


def _read(place: Place) -> RunInfo:
    return read_run(place.local() if place.is_local else place)


def _would_merge(one: Merge) -> Merged:
    rows, size = sum(each.rows for each in one.parts), sum(each.size for each in one.parts)
    return Merged(one.table, f"{one.table}/{one.name.stem}", len(one.parts), rows, size)
