"""One small table as a reader holds it: its parts in memory, and nothing read twice.

A part is a sealed segment or an unsealed write-ahead stream. Strings of the key columns are coded
by a vocabulary that all tables share, so that cells of different tables compare as integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.place import Entry, Place
from optgeom.traces.schema import TEXT
from optgeom.traces.segment import open_segment, read_groups, read_segment
from optgeom.traces.wal import StreamPosition, read_stream

Codes = np.ndarray[Any, np.dtype[np.int64]]
Lists = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Vocabulary:
    """Strings to integers, in the order of their first appearance."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, word: str) -> int:
        """The code of a word, made if it has none."""
        if word not in self._codes:
            self._codes[word] = len(self.words)
            self.words.append(word)
        return self._codes[word]

    def find(self, word: str) -> int:
        """The code of a word, or -1."""
        return self._codes.get(word, -1)

    def encode(self, column: pa.Array) -> Codes:
        """The codes of a dictionary-encoded column without nulls."""
        codes = np.array([self.code(word) for word in column.dictionary.to_pylist()], np.int64)
        indices = column.indices.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        encoded: Codes = codes[indices] if len(indices) else indices
        return encoded


@dataclass(slots=True)
class Part:
    """The rows of one file, in one chunk per column."""

    name: PartName
    path: str
    table: pa.Table
    size: int
    position: StreamPosition = field(default_factory=StreamPosition)
    _lists: dict[str, Lists] = field(default_factory=dict)

    def column(self, name: str) -> pa.Array:
        """One column, as one array."""
        chunks = self.table.column(name).chunks
        return chunks[0] if chunks else pa.array([], self.table.schema.field(name).type)

    def list_at(self, name: str, row: int) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """The float32 list in one row, without a copy; None where it is null."""
        if name not in self._lists:
            column = self.column(name)
            self._lists[name] = (
                column.offsets.to_numpy(),
                column.values.to_numpy(),
                column.is_valid().to_numpy(zero_copy_only=False),
            )
        offsets, values, valid = self._lists[name]
        return values[offsets[row] : offsets[row + 1]] if valid[row] else None


class PartTable:
    """All parts of one table, followed as files come.

    Args:
        place: the trace's folder.
        folder: the table's folder within it.
        without: a column to leave on the disk.
    """

    def __init__(self, place: Place, folder: str, *, without: str | None = None):
        self._place = place
        self._without = without
        self.folder = folder
        self.parts: tuple[Part, ...] = ()

    def refresh(self, entries: Mapping[str, Entry], schema: pa.Schema | None) -> bool:
        """Read what is new among the files; True if rows came or went.

        Args:
            entries: file name -> entry, of this table's folder.
            schema: the table's schema: missing columns become nulls; None: the files' own.

        Raises:
            DamagedTrace: a file is truncated or its bytes changed.
            FileNotFoundError: a file went between the listing and now; list again.
        """
        before = {part.name: part for part in self.parts}
        parts = []
        for name in select_parts(entries):
            known = before.get(name)
            size = entries[name.file].size
            if not name.digest and name.sums in entries:
                size += entries[name.sums].size
            if known is not None and known.size == size:
                parts.append(known)
            elif name.digest:
                parts.append(self._sealed(name, size, schema))
            else:
                parts.append(self._stream(name, size, schema, known))
        changed = [(one.name, one.table.num_rows) for one in parts] != [
            (one.name, one.table.num_rows) for one in self.parts
        ]
        self.parts = tuple(parts)
        return changed

    def table(self, *, without: str | None = None) -> pa.Table | None:
        """All rows, oldest attempt first, without one column; None where there is no part."""
        tables = [part.table for part in self.parts]
        if without is not None:
            tables = [one.drop_columns([without]) for one in tables]
        if len(tables) < 2:
            return tables[0] if tables else None
        return one_chunk(pa.concat_tables(tables, promote_options="default"))

    def _sealed(self, name: PartName, size: int, schema: pa.Schema | None) -> Part:
        path = f"{self.folder}/{name.file}"
        shown = self._place.of(path)
        if self._without is None:
            data = pa.BufferReader(self._place.read(path))
            table = read_segment(data, shown, name.digest)
        else:
            with self._place.open(path) as file:
                segment = open_segment(file, shown, name.digest)
                names = [one for one in segment.schema_arrow.names if one != self._without]
                # the row groups' sums would read the matrices: they are checked when one is asked
                groups = list(range(segment.num_row_groups))
                table = read_groups(file, segment, groups, names, shown, sums=False)
        return Part(name, path, self._align(table, schema, shown), size)

    def _stream(
        self, name: PartName, size: int, schema: pa.Schema | None, known: Part | None
    ) -> Part:
        path = f"{self.folder}/{name.file}"
        shown = self._place.of(path)
        since = known.position if known is not None else None
        try:
            sums = self._place.read(f"{self.folder}/{name.sums}").to_pybytes()
        except FileNotFoundError:
            if self._place.has(path):
                raise DamagedTrace(
                    f"{shown} is damaged: the .sums file beside it is missing. Restore it"
                ) from None
            raise
        data = self._place.read(path, since.offset if since else 0).to_pybytes()
        batches, position = read_stream(data, sums, shown, since)
        if batches:
            table = self._align(pa.Table.from_batches(batches), schema, shown)
            if known is not None:
                table = one_chunk(pa.concat_tables([known.table, table]))
        elif known is not None:
            table = known.table
        else:
            empty = (schema or pa.schema([])).empty_table()
            table = self._align(empty, schema, shown)
        return Part(name, path, table, size, position)

    def _align(self, table: pa.Table, schema: pa.Schema | None, name: str) -> pa.Table:
        if schema is None:
            return one_chunk(table)
        if self._without is not None:
            schema = schema.remove(schema.get_field_index(self._without))
            if self._without in table.schema.names:
                table = table.drop_columns([self._without])
        return align(table, schema, name)


def select_parts(entries: Mapping[str, Entry]) -> list[PartName]:
    """Which files to read, in order: a segment rather than the stream it was made of."""
    names = sorted(name for name in map(parse_name, entries) if name is not None)
    sealed = {name.slot for name in names if name.digest}
    return [name for name in names if name.digest or name.slot not in sealed]


def align(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The table with exactly the schema's columns; absent ones are null.

    Raises:
        DamagedTrace: a column has a type that the schema's cannot be made of.
    """
    if table.schema.equals(schema):
        return one_chunk(table)
    columns = []
    for one in schema:
        index = table.schema.get_field_index(one.name)
        if index < 0:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, one.type)]))
            continue
        try:
            columns.append(table.column(index).cast(one.type))
        except (pa.ArrowException, ValueError) as error:
            raise DamagedTrace(
                f"{name} has {one.name} as {table.schema.field(index).type}, run.json says "
                f"{one.type}: one of them is not of this trace"
            ) from error
    return one_chunk(pa.table(columns, schema=schema))


def one_chunk(table: pa.Table) -> pa.Table:
    """The same table with one chunk, and so one dictionary, per column."""
    if any(field.type == TEXT for field in table.schema):
        table = table.unify_dictionaries()
    return table.combine_chunks()
