"""One table as a reader follows it, as files come.

Streams are short, and are kept in memory; of segments, which may be many gigabytes, the keys are
kept, and columns and lists are read when they are asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.part import Part, Source
from optgeom.traces.place import Entry
from optgeom.traces.sealed import SealedPart
from optgeom.traces.stream import StreamPart


class PartTable:
    """All parts of one table.

    Args:
        source: what all tables of the trace share.
        folder: the table's folder within the trace's.
        schema: missing columns become nulls; None: the files' own.
    """

    def __init__(self, source: Source, folder: str, schema: pa.Schema | None):
        self._source = source
        self._schema = schema
        self.folder = folder
        self.parts: tuple[Part, ...] = ()

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """The columns that it has, or that any part has, in their order."""
        if self._schema is not None:
            return {field.name: field.type for field in self._schema}
        return {name: kind for part in self.parts for name, kind in part.types.items()}

    def refresh(self, entries: Mapping[str, Entry]) -> None:
        """Take up what is new among the files.

        Args:
            entries: file name -> entry, of this table's folder.

        Raises:
            DamagedTrace: a file is truncated or its bytes changed.
            FileNotFoundError: a file went between the listing and now; list again.
        """
        before = {part.name: part for part in self.parts}
        parts: list[Part] = []
        for name in select_parts(entries):
            known = before.get(name)
            size = entries[name.file].size
            if not name.digest and name.sums in entries:
                size += entries[name.sums].size
            if known is not None and known.size == size:
                parts.append(known)
            elif name.digest:
                path = f"{self.folder}/{name.file}"
                parts.append(SealedPart(self._source, name, path, size, self._schema))
            elif self._schema is not None:
                grown = known if isinstance(known, StreamPart) else None
                parts.append(
                    StreamPart.read(self._source, name, self.folder, size, self._schema, grown)
                )
        self.parts = tuple(parts)

    def table(self, names: Sequence[str] | None = None) -> pa.Table | None:
        """All rows, oldest attempt first; None where there is no part.

        Args:
            names: only these columns; a part that lacks one has nulls there.
        """
        if not self.parts:
            return None
        wanted = self.types if names is None else names
        tables = [part.columns([one for one in wanted if one in part.types]) for part in self.parts]
        return one_chunk(pa.concat_tables(tables, promote_options="default"))


def select_parts(entries: Mapping[str, Entry]) -> list[PartName]:
    """Which files to read, in order: a segment rather than the stream it was made of."""
    names = sorted(name for name in map(parse_name, entries) if name is not None)
    sealed = {name.slot for name in names if name.digest}
    return [name for name in names if name.digest or name.slot not in sealed]
