"""Sealed segments: Parquet files that are whole or not there.

A segment is written under a hidden name, flushed to the disk, and appears by rename. What a reader
compares before it parses anything is in `optgeom.traces.format.checked`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.files.durable import fsync_folder
from optgeom.traces.format.footer import INDEX, SUMS, footer_digest, read_footer
from optgeom.traces.format.layout import is_large, row_groups
from optgeom.traces.format.output import SummedFile, named_by_number
from optgeom.traces.names import PartName, temporary
from optgeom.traces.schema import FLOATS, SCHEMA_VERSION, TEXT

SCALAR_ROWS_PER_GROUP = 1 << 17
INDEX_SHARE = 8
RAW_INDEX_SHARE = 20
_FILTERED_BY = ("attempt", "step", "layer", "stage")


class SegmentWriter:
    """Writes one segment, row group by row group.

    Args:
        folder: the table's folder, which exists.
        name: attempt, rank and sequence.
        schema: the table's Arrow schema.
        raw: the segment holds raw matrices: nothing is compressed or counted.
        notes: what its footer says besides.

    Attributes:
        size: of the file in bytes, once it is sealed.
    """

    def __init__(
        self,
        folder: Path,
        name: PartName,
        schema: pa.Schema,
        *,
        raw: bool = False,
        notes: Mapping[str, str] | None = None,
    ):
        self._folder = folder
        self._name = name
        self._temporary = folder / temporary(f"{name.stem}.parquet")
        self._file = SummedFile(self._temporary)
        self._small = [field.name for field in schema if not is_large(field.type)]
        self._index: list[pa.Table] = []
        self._bytes, self._raw = 0, raw
        self.size = 0
        self._notes = dict(notes or {})
        lists = [f"{field.name}.list.element" for field in schema if field.type == FLOATS]
        try:
            self._writer = pq.ParquetWriter(
                self._file.stream,
                schema.with_metadata({"optgeom.schema": str(SCHEMA_VERSION)}),
                use_dictionary=[field.name for field in schema if field.type == TEXT],
                compression="none" if raw else _codecs(schema, lists),
                column_encoding=dict.fromkeys(lists, "BYTE_STREAM_SPLIT") or None,
                write_statistics=_statistics(schema, lists, raw=raw),
                write_page_checksum=True,
            )
        except BaseException:
            self._file.close()
            raise

    def write_sorted(self, table: pa.Table) -> None:
        """Append a table in the row groups that suit its reading."""
        for group in row_groups(table):
            self.write(group)

    def write(self, table: pa.Table) -> None:
        """Append a table; one row group unless it is longer than SCALAR_ROWS_PER_GROUP rows."""
        if len(self._small) < len(table.schema.names):
            self._index.append(table.select(self._small))
            self._bytes += table.nbytes
        for start in range(0, table.num_rows, SCALAR_ROWS_PER_GROUP):
            group = table.slice(start, SCALAR_ROWS_PER_GROUP)
            with named_by_number():
                self._writer.write_table(group, row_group_size=SCALAR_ROWS_PER_GROUP)
                self._file.end_group()

    def seal(self) -> Path:
        """Make the segment appear under its final name; returns its path."""
        notes = self._notes | {SUMS.decode(): json.dumps(self._file.sums)}
        index = _encode(pa.concat_tables(self._index)) if self._index else ""
        share = RAW_INDEX_SHARE if self._raw else INDEX_SHARE
        if self._index and share * len(index) < self._bytes:
            notes[INDEX.decode()] = index
        self._writer.add_key_value_metadata(notes)
        with named_by_number():
            self._writer.close()
            self._file.sync()
        digest = footer_digest(read_footer(self._file, self._temporary.name, self._file.size()))
        name = replace(self._name, digest=digest)
        # once it appears it may be uploaded, and taken away
        self.size = self._file.size()
        final = self._folder / name.file
        self._temporary.replace(final)
        self._file.close()
        fsync_folder(self._folder)
        return final

    def abandon(self) -> None:
        """Leave nothing behind; for a segment that could not be written."""
        # first, or the footer of a file that goes would take the room that others need
        self._file.close()
        with suppress(pa.ArrowException, OSError, ValueError):
            self._writer.close()


def _codecs(schema: pa.Schema, lists: list[str]) -> str | dict[str, str]:
    """Each leaf's. The small columns of many row groups are cheapest to write with LZ4."""
    if not lists:
        return "zstd"
    others = [field.name for field in schema if field.type != FLOATS]
    return dict.fromkeys(others, "lz4") | dict.fromkeys(lists, "zstd")


def _statistics(schema: pa.Schema, lists: list[str], *, raw: bool) -> bool | list[str]:
    """Of many row groups those of the keys alone: a reader parses all of them."""
    if raw or not lists:
        return not raw
    return [name for name in _FILTERED_BY if name in schema.names]


def _encode(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table.unify_dictionaries().combine_chunks())
    return base64.b64encode(sink.getvalue()).decode()
