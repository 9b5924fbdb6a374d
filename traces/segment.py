"""Sealed segments: Parquet files that are whole or not there.

A segment is written under a hidden name, flushed to the disk, and appears by rename. Page
checksums cover its data but not its footer, and a flipped bit in a footer can end the process or
read back as wrong numbers; so a digest over the footer stands in the name, and is compared before
Arrow parses a byte of it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.names import PartName
from optgeom.traces.schema import SCHEMA_VERSION, TEXT

SCALAR_ROWS_PER_GROUP = 1 << 17
_TAIL = 8
_MAGIC = b"PAR1"


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
        self._writer = pq.ParquetWriter(
            str(self._temporary),
            schema.with_metadata({"optgeom.schema": str(SCHEMA_VERSION)}),
            use_dictionary=[field.name for field in schema if field.type == TEXT],
            compression="none" if raw else "zstd",
            write_statistics=False if raw else [*schema.names],
            write_page_checksum=True,
        )

    def write(self, table: pa.Table) -> None:
        """Append a table; one row group unless it is longer than SCALAR_ROWS_PER_GROUP rows."""
        self._writer.write_table(table, row_group_size=SCALAR_ROWS_PER_GROUP)

    def seal(self) -> Path:
        """Make the segment appear under its final name; returns its path."""
        self._writer.close()
        with self._temporary.open("rb") as file:
            footer = _read_footer(pa.PythonFile(file, mode="r"), self._temporary.name)
            os.fsync(file.fileno())
        digest = footer_digest(footer)
        name = PartName(*self._name.slot, digest)
        final = self._folder / name.file
        self._temporary.rename(final)
        fsync_folder(self._folder)
        return final

    def abandon(self) -> None:
        """Leave nothing behind; for a segment that could not be written."""
        try:
            self._writer.close()
        finally:
            self._temporary.unlink(missing_ok=True)


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


def read_segment(
    file: pa.NativeFile, name: str, digest: str, columns: list[str] | None = None
) -> pa.Table:
    """Read a sealed segment, whole or some columns, with every checksum verified.

    Raises:
        DamagedTrace: it is truncated, or any byte of it changed.
    """
    segment = open_segment(file, name, digest)
    try:
        return segment.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error


def read_groups(
    segment: pq.ParquetFile, groups: list[int], columns: list[str], name: str
) -> pa.Table:
    """Read some row groups of an opened segment, with every checksum verified.

    Raises:
        DamagedTrace: a byte of them changed.
    """
    try:
        return segment.read_row_groups(groups, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error


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
