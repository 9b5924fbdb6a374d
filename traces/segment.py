"""Sealed segments: Parquet files that are whole or not there.

A segment is written under a hidden name, flushed to the disk, and appears by rename. Parquet's page
checksums cover the data in the pages, not their headers nor the footer, and a flipped bit there
can end the process or read back as wrong numbers. So a digest over the footer stands in the name,
the footer holds a CRC-32 of the bytes of each row group, and both are compared before Arrow parses
what they cover.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.names import PartName
from optgeom.traces.schema import SCHEMA_VERSION, TEXT

SCALAR_ROWS_PER_GROUP = 1 << 17
_BUFFER = 1 << 18
_TAIL = 8
_MAGIC = b"PAR1"
_SUMS = b"optgeom.crc32"


class SegmentWriter:
    """Writes one segment, row group by row group.

    Args:
        folder: the table's folder, which exists.
        name: attempt, rank and sequence.
        schema: the table's Arrow schema.
        raw: the segment holds raw matrices: nothing is compressed or counted.
    """

    def __init__(self, folder: Path, name: PartName, schema: pa.Schema, *, raw: bool = False):
        self._folder = folder
        self._name = name
        self._temporary = folder / name.temporary
        self._file = _SummedFile(self._temporary)
        # Arrow writes in small pieces, and each that comes to Python waits for the interpreter
        self._buffered = pa.BufferedOutputStream(pa.PythonFile(self._file, "w"), _BUFFER)
        self._sums: list[tuple[int, int]] = []
        try:
            self._writer = pq.ParquetWriter(
                self._buffered,
                schema.with_metadata({"optgeom.schema": str(SCHEMA_VERSION)}),
                use_dictionary=[field.name for field in schema if field.type == TEXT],
                compression="none" if raw else "zstd",
                write_statistics=not raw,
                write_page_checksum=True,
            )
        except BaseException:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            raise

    def write(self, table: pa.Table) -> None:
        """Append a table; one row group unless it is longer than SCALAR_ROWS_PER_GROUP rows."""
        for start in range(0, table.num_rows, SCALAR_ROWS_PER_GROUP):
            group = table.slice(start, SCALAR_ROWS_PER_GROUP)
            self._writer.write_table(group, row_group_size=SCALAR_ROWS_PER_GROUP)
            self._buffered.flush()
            self._sums.append((self._file.tell(), self._file.take_sum()))

    def seal(self) -> Path:
        """Make the segment appear under its final name; returns its path."""
        self._writer.add_key_value_metadata({_SUMS.decode(): json.dumps(self._sums)})
        self._writer.close()
        self._buffered.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with pa.OSFile(str(self._temporary), "rb") as file:
            digest = footer_digest(_read_footer(file, self._temporary.name))
        name = PartName(*self._name.slot, digest)
        final = self._folder / name.file
        self._temporary.replace(final)
        fsync_folder(self._folder)
        return final

    def abandon(self) -> None:
        """Leave nothing behind; for a segment that could not be written."""
        self._file.discard()
        try:
            self._writer.close()
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class _SummedFile(io.FileIO):
    """A file that knows the CRC-32 of what was written since it was last asked."""

    def __init__(self, path: Path):
        super().__init__(path, "wb")
        self._crc = 0
        self._wanted = True

    def discard(self) -> None:
        """Write nothing any more: the writer's footer of a file that goes needs no room."""
        self._wanted = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if not self._wanted:
            return view.nbytes
        self._crc = zlib.crc32(view, self._crc)
        done = 0
        while done < view.nbytes:
            done += super().write(view[done:]) or 0
        return done

    def take_sum(self) -> int:
        crc, self._crc = self._crc, 0
        return crc


def footer_digest(footer: bytes) -> str:
    """16 hex digits over a Parquet footer: its metadata, their length and the closing magic."""
    return hashlib.blake2b(footer, digest_size=8).hexdigest()


def open_segment(file: pa.NativeFile, name: str, digest: str) -> pq.ParquetFile:
    """Open a sealed segment after comparing its footer with the digest in its name.

    Args:
        file: random access to the whole segment.
        name: how to call it in errors.
        digest: the digest from its name.

    Raises:
        DamagedTrace: it is truncated, or its footer changed.
    """
    footer = _read_footer(file, name)
    if footer_digest(footer) != digest:
        raise DamagedTrace(f"{name} is damaged: its footer changed. Restore it from a copy")
    try:
        return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error


def read_segment(file: pa.NativeFile, name: str, digest: str) -> pa.Table:
    """Read a whole sealed segment, with every checksum verified.

    Raises:
        DamagedTrace: it is truncated, or any byte of it changed.
    """
    segment = open_segment(file, name, digest)
    return read_groups(file, segment, list(range(segment.num_row_groups)), None, name)


def read_groups(
    file: pa.NativeFile,
    segment: pq.ParquetFile,
    groups: list[int],
    columns: list[str] | None,
    name: str,
    *,
    sums: bool = True,
) -> pa.Table:
    """Read some row groups of an opened segment, with every checksum verified.

    Args:
        file: what the segment was opened from.
        segment: from open_segment.
        groups: row group numbers.
        columns: only these.
        name: how to call it in errors.
        sums: check the row groups' CRC-32 too, which reads all their columns; without it page
            checksums alone are checked.

    Raises:
        DamagedTrace: a byte of them changed.
    """
    if sums:
        _check_groups(file, segment, groups, name)
    try:
        return segment.read_row_groups(groups, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error


def _check_groups(
    file: pa.NativeFile, segment: pq.ParquetFile, groups: list[int], name: str
) -> None:
    stored = json.loads((segment.metadata.metadata or {}).get(_SUMS, b"[]"))
    if len(stored) != segment.num_row_groups:
        raise DamagedTrace(f"{name} is no segment of a trace: its checksums are missing")
    starts = [0, *(end for end, _ in stored)]
    for group in groups:
        end, crc = stored[group]
        file.seek(starts[group])
        if zlib.crc32(file.read_buffer(end - starts[group])) != crc:
            raise DamagedTrace(
                f"{name} is damaged: bytes {starts[group]} to {end} changed. Restore it from a copy"
            )


def fsync_folder(folder: Path) -> None:
    """Make a rename in the folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_footer(file: pa.NativeFile, name: str) -> bytes:
    size: int = file.size()
    if size < _TAIL + len(_MAGIC):
        raise DamagedTrace(f"{name} is truncated: {size} bytes are left. Restore it from a copy")
    file.seek(size - _TAIL)
    tail: bytes = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + _TAIL + len(_MAGIC) > size:
        raise DamagedTrace(f"{name} is truncated: it ends within its data. Restore it from a copy")
    file.seek(size - _TAIL - length)
    footer: bytes = file.read(length)
    file.seek(0)
    return footer + tail


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
