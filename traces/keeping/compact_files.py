"""The files that a compaction makes: aside first, read back as a whole, then in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pyarrow as pa

from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.files.durable import fsync_folder
from optgeom.traces.files.lock import COMPACT_LOCK, Lock, holder
from optgeom.traces.files.place import Place, find
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.names import TEMPORARY, PartName

_ASIDE = f"{TEMPORARY}compact-"


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Be the only compaction of a trace on this machine for the length of a block.

    An object store has no locks: there it is for the caller to run one at a time.

    Raises:
        TraceError: another process compacts it, or the folder cannot be written.
    """
    if not place.is_local:
        yield
        return
    folder = place.local()
    try:
        lock = Lock.take(folder, COMPACT_LOCK)
    except OSError as error:
        raise TraceError(f"{place.shown} cannot be written: {error.strerror or error}") from error
    if lock is None:
        raise TraceError(
            f"{place.shown} is being compacted by {holder(folder, COMPACT_LOCK)}: "
            "wait until that has ended"
        )
    try:
        for left in folder.glob(f"{_ASIDE}*"):  # by a compaction that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def aside(place: Place) -> Iterator[Path]:
    """A folder for files until they are whole: beside the tables, or where TMPDIR says.

    Raises:
        TraceError: it cannot be made.
    """
    try:
        if not place.is_local:
            with TemporaryDirectory(prefix="optgeom-") as scratch:
                yield Path(scratch)
            return
        made = Path(mkdtemp(prefix=_ASIDE, dir=place.local()))
    except OSError as error:
        raise TraceError(f"{place.shown} cannot be written: {error.strerror or error}") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def sealing(folder: Path, name: PartName, schema: pa.Schema) -> Iterator[SegmentWriter]:
    """A writer of a segment that leaves nothing behind if the block fails."""
    raw = any(pa.types.is_binary(field.type) for field in schema)
    writer = SegmentWriter(folder, name, schema, raw=raw)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise


def settle(place: Place, table: str, made: Path, rows: int, changed: int) -> str:
    """Put a segment in its place, once it reads back as a whole; returns where it is.

    Args:
        place: the trace's folder.
        table: its table.
        made: the segment, aside.
        rows: that it must have.
        changed: its time of change, in nanoseconds: that of what it was made of, so that a run that
            nobody writes does not look alive.

    Raises:
        DamagedTrace: it does not read back; it is removed, and what it was made of is untouched.
        TraceError: the place cannot be written.
    """
    path = f"{table}/{made.name}"
    _drop_cached(made)
    read_back(find(made.parent), made.name, rows)
    if place.is_local:
        folder = place.local() / table
        os.utime(made, ns=(changed, changed))
        made.replace(folder / made.name)
        fsync_folder(folder)
        return path
    place.put(path, made)
    try:
        read_back(place, path, rows)
    except DamagedTrace:
        place.remove(path)
        raise
    return path


def read_back(place: Place, path: str, rows: int | None = None) -> None:
    """Read a whole segment with every checksum.

    Args:
        place: it is in.
        path: of it.
        rows: that it must have; None: any number.

    Raises:
        DamagedTrace: it is not what was written.
        FileNotFoundError: it has gone.
    """
    name, found = place.of(path), 0
    with place.open(path) as file:
        segment = Segment(file, name, path.rpartition("-")[2].removesuffix(".parquet"))
        for group in segment.groups:
            found += int(segment.read([group]).num_rows)
    if rows is not None and found != rows:
        raise DamagedTrace(f"{name} holds {found} rows of {rows}")


def remove(place: Place, path: str) -> None:
    """Remove a file of a trace that others have taken the place of; no error if it has gone."""
    if place.is_local:
        (place.local() / path).unlink(missing_ok=True)
    else:
        place.remove(path)


def _drop_cached(path: Path) -> None:
    """Have the disk asked for a file's bytes, not the memory they were written from."""
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
