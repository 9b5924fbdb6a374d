"""Making a place in an object store show what is in a local folder, in an order fit for readers.

At no moment does the place lack a record that it had, or hold one twice: run.json comes before
what it describes, and says that an attempt has ended only after all of it; a segment appears before
the stream that it was made of goes, and of that the checksums go last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from optgeom.traces.errors import TraceError
from optgeom.traces.files.listing import DERIVED, trace_entries
from optgeom.traces.files.place import Place, find
from optgeom.traces.format.wal import whole_lines
from optgeom.traces.info import RUN_FILE, RunInfo
from optgeom.traces.names import PartName, is_stream, parse_name
from optgeom.traces.writing.attempts import reconciled
from optgeom.traces.writing.runfile import find_run, read_run, replace_run
from optgeom.traces.writing.spool import SpoolNote

_STREAM, _SUMS = ".arrows", ".sums"


class Uploading:
    """Uploads what is missing or differs; may be asked again after any failure.

    Args:
        folder: a local trace, or a spool, which may still be written to.
        place: where it goes.
        attempt: of the records in the folder; None: several, as run.json says.
        there: the files of the place and their sizes, as far as they may be the same.
        takes: remove segments from the folder once the place has them.
        beats: write run.json whenever it was touched here, so that its time there is a heartbeat.

    Attributes:
        files: objects written so far, and `bytes` in them.
        bytes: see `files`.
        same: files that were there already.
        stream_seconds: that streams took in the last turn that uploaded any.
    """

    def __init__(
        self,
        folder: Path,
        place: Place,
        *,
        attempt: int | None = None,
        there: Mapping[str, int] | None = None,
        takes: bool = False,
        beats: bool = False,
    ):
        self._folder, self._place, self._attempt = folder, place, attempt
        self._takes, self._beats = takes, beats
        self._there: dict[str, int] = {}
        self._sealed: set[tuple[str, tuple[int, int, int]]] = set()
        self._merged: dict[str, list[PartName]] = {}
        for path, size in (there or {}).items():
            self._note(path, size)
        self._sums: dict[str, bytes] = {}
        self._seen: dict[str, int] = {}  # how long streams were when they were uploaded last
        self._told = (0, False)
        self._copied: RunInfo | None = None
        self._described = False
        self.files = self.bytes = self.same = 0
        self.stream_seconds = 0.0

    def turn(self, *, streams: bool = True) -> int:
        """Upload what is there now; returns the bytes that are left, 0 where it is complete.

        Args:
            streams: upload streams that grew as well, and what run.json says of the end.

        Raises:
            TraceError: the place does not answer, or refuses; or it holds another run.
            OSError: a file of the folder cannot be read.
        """
        self._describe(whole=False)
        entries = self._entries()
        segments = [path for path in entries if not is_stream(path)]
        for path in sorted(segments, key=lambda one: (one.startswith("updates/"), one)):
            self._segment(path, entries[path])
        if streams:
            started = time.monotonic()
            for path in entries:
                if path.endswith(_STREAM):
                    self._stream(path, entries)
            self.stream_seconds = time.monotonic() - started
        left = self.left()
        if not left and streams:
            self._describe(whole=True)
        return left

    def left(self) -> int:
        """Bytes that the place does not have yet."""
        return sum(
            max(0, size - self._seen.get(path, 0))
            if is_stream(path)
            else size * (size != self._there.get(path))
            for path, size in self._entries().items()
        )

    @property
    def size(self) -> int:
        """Bytes of what has been uploaded and is there, but run.json."""
        return sum(list(self._there.values()))

    def _entries(self) -> dict[str, int]:
        """The files that make up the trace, but run.json, without streams that were sealed."""
        found = {
            path: (part, entry.size)
            for path, entry in trace_entries(find(self._folder)).items()
            if (part := _part(path)) is not None
        }
        sealed = self._sealed | {
            (path.rpartition("/")[0], part.slot) for path, (part, _) in found.items() if part.digest
        }
        return {
            path: size
            for path, (part, size) in found.items()
            if part.digest or (path.rpartition("/")[0], part.slot) not in sealed
        }

    def _segment(self, path: str, size: int) -> None:
        if self._is_covered(path):
            self._there.setdefault(path, size)
        if self._there.get(path) == size:
            self.same += not self._takes
        else:
            try:
                self._place.put(path, self._folder / path)
            except FileNotFoundError:
                return  # a merged one has taken its place, or it was removed by hand
            self._wrote(path, size)
        self._remove_stream(path)
        if self._takes:
            (self._folder / path).unlink(missing_ok=True)

    def _is_covered(self, path: str) -> bool:
        """Whether the place has a merged segment that stands for this one."""
        folder, part = path.rpartition("/")[0], _part(path)
        if part is None or folder.startswith(DERIVED):
            return False
        return any(
            one.more > part.more and one.covers(part) for one in self._merged.get(folder, ())
        )

    def _remove_stream(self, segment: str) -> None:
        folder, part = segment.rpartition("/")[0], _part(segment)
        if part is None:
            return
        stream = replace(part, digest="", more=0)
        for name in (stream.file, stream.sums):
            if (path := f"{folder}/{name}") in self._there:
                self._place.remove(path)
                del self._there[path]

    def _stream(self, path: str, entries: Mapping[str, int]) -> None:
        sums_path = _sums_of(path)
        try:
            # the sums first: what they count is in the stream by then
            sums, end = whole_lines((self._folder / sums_path).read_bytes())
            if not self._is_there(path, sums_path, sums, end):
                with (self._folder / path).open("rb") as file:
                    self._write_stream(path, file.read(end), sums_path, sums)
        except FileNotFoundError:
            return  # it was sealed: the segment comes with the next turn
        self._seen |= {one: entries.get(one, 0) for one in (path, sums_path)}

    def _write_stream(self, path: str, data: bytes, sums_path: str, sums: bytes) -> None:
        files = [(path, data), (sums_path, sums)]
        # a reader may meet sums without a stream, never a stream without sums
        for name, content in files if path in self._there else reversed(files):
            self._place.write(name, content)
            self._wrote(name, len(content))
        self._sums[path] = sums

    def _is_there(self, path: str, sums_path: str, sums: bytes, end: int) -> bool:
        if not end:
            return True  # nothing that counts
        if path not in self._sums:
            if self._there.get(path, 0) < end or self._there.get(sums_path) != len(sums):
                return False
            self._sums[path] = self._place.read(sums_path)
            self.same += 2 * (self._sums[path] == sums)
        return self._sums[path] == sums

    def _describe(self, *, whole: bool) -> None:
        """Write run.json there.

        Args:
            whole: everything is there; else what has ended is not said to have.
        """
        try:
            changed = (self._folder / RUN_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return  # another rank writes it
        if self._told[0] == changed and self._told[1] >= whole:
            return
        own = read_run(self._folder)
        there = find_run(self._place)
        told = own if whole else self._open(own)
        told = told if there is None else reconciled(told, there)
        if told != there or self._beats:
            copied = there if self._copied is None else self._copied
            if replace_run(self._place, told, copy=told != copied):
                self._copied = told
            self.files += not self._described
            self._described = True
        self._told = (changed, whole or told == own)

    def _open(self, info: RunInfo) -> RunInfo:
        last = info.newest
        number = last if self._attempt is None else self._attempt
        return replace(
            info,
            attempts=tuple(
                replace(one, closed=None, failed=None)
                if one.attempt == number and one.has_ended
                else one
                for one in info.attempts
            ),
        )

    def _note(self, path: str, size: int) -> None:
        self._there[path] = size
        folder, part = path.rpartition("/")[0], _part(path)
        if part is not None and part.digest:
            self._sealed.add((folder, part.slot))
        if part is not None and part.more:
            self._merged.setdefault(folder, []).append(part)

    def _wrote(self, path: str, size: int) -> None:
        self._note(path, size)
        self.files += 1
        self.bytes += size


def _part(path: str) -> PartName | None:
    """The part of a table that a file is, or is the checksums of."""
    name = path.rpartition("/")[2]
    return parse_name(name.removesuffix(_SUMS) + _STREAM if name.endswith(_SUMS) else name)


def _sums_of(stream: str) -> str:
    return stream.removesuffix(_STREAM) + _SUMS


def begin_upload(folder: Path, place: Place, note: SpoolNote | None) -> Uploading:
    """Compare a folder with what is at a place.

    Args:
        folder: a local trace, or a spool.
        place: where it shall go.
        note: of the spool.

    Raises:
        TraceError: the place holds another run; or nothing, and a spool is not all of a run.
    """
    there = find_run(place)
    if there is None and place.lacks_bucket():
        raise TraceError(f"{place.missing()}: make it, or pass another")
    if note is None:
        own = read_run(folder)
        if there is not None and (own.run, own.created) != (there.run, there.created):
            raise _another(place, there, f"{own.run}, made {own.created}")
    elif there is None:
        raise TraceError(
            f"{place.shown} holds no trace, and {folder} is only what the store had not taken of "
            f"{note.uri}: pass that, with the keys"
        )
    elif not note.is_of(there):
        raise _another(place, there, f"{note.run}, made {note.created}, of {note.uri}")
    return Uploading(
        folder,
        place,
        attempt=None if note is None else note.attempt,
        there={path: entry.size for path, entry in trace_entries(place).items()},
        takes=note is not None,
    )


def _another(place: Place, there: RunInfo, own: str) -> TraceError:
    return TraceError(
        f"{place.shown} holds another run ({there.run}, made {there.created}), not {own}: pass a "
        "URI that holds nothing"
    )
