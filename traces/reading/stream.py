"""An unsealed write-ahead stream as a part of a table: kept in memory, and read on as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import align, one_array, one_chunk
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.format.wal import StreamPosition, read_stream
from optgeom.traces.limits import MAX_STREAM_BYTES, refuse
from optgeom.traces.names import PartName
from optgeom.traces.reading.keys import CELL, Keys
from optgeom.traces.reading.part import Floats, Lists, Part, Source


class StreamPart(Part):
    """A write-ahead stream, as far as it has been read.

    Args:
        source: what it shares.
        name: attempt, rank and sequence.
        path: within the trace's folder.
        size: of the stream and its sums, in bytes.
        schema: the table's.
        tables: its rows so far, one chunk per column.
        position: where to go on.
    """

    def __init__(
        self,
        source: Source,
        name: PartName,
        path: str,
        size: int,
        schema: pa.Schema,
        tables: tuple[pa.Table, ...],
        position: StreamPosition,
    ):
        self._schema, self._tables, self._position = schema, tables, position
        self._starts = np.cumsum([0, *(one.num_rows for one in tables)])
        self._lists: dict[tuple[str, int], Lists] = {}
        names = [one for one in CELL if one in schema.names]
        keys = Keys.of(self.columns(names), source.vocabulary, source.place.of(path))
        types = {field.name: field.type for field in schema}
        super().__init__(source, name, path, size, keys, types)

    @classmethod
    def read(
        cls,
        source: Source,
        name: PartName,
        folder: str,
        size: int,
        upto: int | None,
        schema: pa.Schema,
        known: Self | None,
    ) -> Self:
        """Read a stream, or what was appended since it was last read.

        Args:
            source: what it shares.
            name: attempt, rank and sequence.
            folder: the table's.
            size: of the stream and its sums, in bytes.
            upto: how many bytes of its sums count, and with them of the stream; None: all.
            schema: the table's.
            known: what was read before.

        Raises:
            DamagedTrace: a byte of a whole message changed.
            FileNotFoundError: it has gone: it was sealed.
        """
        path = f"{folder}/{name.file}"
        place, shown = source.place, source.place.of(path)
        refuse(shown, "bytes with its checksums", size, MAX_STREAM_BYTES)
        try:
            sums = place.read(f"{folder}/{name.sums}")[:upto]
        except FileNotFoundError:
            if place.has(path):
                raise DamagedTrace(
                    f"{shown} is damaged: the .sums file beside it is missing. Restore it"
                ) from None
            raise
        if known is not None and not known._position.continues(sums):
            # a run that was started again in the same place: nothing of the old one counts
            known = None
        since = known._position if known is not None else None
        data = place.read(path, since.offset if since else 0)
        batches, position = read_stream(data, sums, shown, since)
        tables = known._tables if known is not None else ()
        if batches:
            table = align(pa.Table.from_batches(batches), schema, shown)
            tables = _appended(tables, table)
        return cls(source, name, path, size, schema, tables, position)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """See Part."""
        picked = [one.select(list(names)) for one in self._tables]
        if not picked:
            return pa.schema([self._schema.field(one) for one in names]).empty_table()
        return one_chunk(pa.concat_tables(picked))

    def list_at(self, name: str, row: int) -> Floats | None:
        """See Part."""
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        if (name, chunk) not in self._lists:
            column = one_array(self._tables[chunk].column(name))
            self._lists[name, chunk] = Lists.of(column, self.shown)
        return self._lists[name, chunk].at(row - int(self._starts[chunk]))


def _appended(tables: tuple[pa.Table, ...], last: pa.Table) -> tuple[pa.Table, ...]:
    """The tables and one more: they stay few however many come, and no row is moved often."""
    kept = list(tables)
    while kept and kept[-1].num_rows <= 2 * last.num_rows:
        last = one_chunk(pa.concat_tables([kept.pop(), last]))
    return (*kept, last)
