"""A sealed segment as a part of a table: opened anew for each read, nothing kept but keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from optgeom.traces.checked import Segment
from optgeom.traces.columns import align, one_array
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.keys import CELL, Keys
from optgeom.traces.names import PartName
from optgeom.traces.part import Floats, Lists, Part, Source
from optgeom.traces.schema import FLOATS

_COMPARED = ("step", "layer", "stage")
_FEW = 4


class SealedPart(Part):
    """A sealed segment.

    Args:
        source: what it shares.
        name: attempt, rank, sequence and digest.
        path: within the trace's folder.
        size: in bytes.
        schema: the table's: absent columns are null, others are not there; None: the file's own.

    Raises:
        DamagedTrace: it is truncated, or a byte of what was read changed.
        FileNotFoundError: it has gone.
    """

    def __init__(
        self, source: Source, name: PartName, path: str, size: int, schema: pa.Schema | None
    ):
        shown = source.place.of(path)
        self._checked: set[int] = set()
        with source.place.open(path) as file:
            segment = Segment(file, shown, name.digest, self._checked)
            fields = segment.schema if schema is None else schema
            self._schema: pa.Schema = fields
            self._there = frozenset(segment.schema.names)
            self._ends = segment.ends
            self._indexed = segment.indexed
            names = [one for one in CELL if one in fields.names]
            table = self._aligned(self._read_keys(segment, names), names, shown)
        keys = Keys.of(table, source.vocabulary, shown)
        types = {field.name: field.type for field in fields}
        super().__init__(source, name, path, size, keys, types)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """See Part."""
        there = [one for one in names if one in self._there]
        if not there:
            nulls = {one: pa.nulls(self.keys.rows, self.types[one]) for one in names}
            return pa.table(nulls)
        index = self._index()
        if index is not None and set(there) <= set(index.schema.names):
            return self._aligned(index.select(there), names, self.shown)
        if len(names) > _FEW or any(self.types[one] == FLOATS for one in there):
            return self._read(there, names)
        # a live run asks for the same few columns at every flush, and this file stays as it is
        key = (self.token, "columns", *names)
        found: pa.Table | None = self.source.cache.get(key)
        if found is None:
            found = self._read(there, names)
            self.source.cache.put(key, found, found.nbytes)
        return found

    def _read(self, there: Sequence[str], names: Sequence[str]) -> pa.Table:
        with self._open() as segment:
            return self._aligned(segment.read(segment.groups, there), names, self.shown)

    def list_at(self, name: str, row: int) -> Floats | None:
        """See Part; the lists of the whole row group are kept while there is room."""
        if name not in self._there:
            return None
        group = int(np.searchsorted(self._ends, row, side="right"))
        key = (self.token, name, group)
        lists: Lists | None = self.source.cache.get(key)
        if lists is None:
            with self._open() as segment:
                table = self._aligned(segment.read([group], [name]), [name], self.shown)
            lists = Lists.of(one_array(table.column(0)), self.shown)
            self.source.cache.put(key, lists, lists.nbytes)
        return lists.at(row - self._start(group))

    def read_rows(
        self, rows: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Each of some rows as a table of one row, in the order of the file.

        Raises:
            DamagedTrace: a byte of them changed, or the keys that were read first are others.
        """
        groups = np.searchsorted(self._ends, rows, side="right")
        wanted = [*dict.fromkeys([*_COMPARED, *names])]
        with self._open() as segment:
            for group in np.unique(groups).tolist():
                table = segment.read([group], wanted)
                begin = self._start(group)
                for row in (row for row, its in zip(rows, groups, strict=True) if its == group):
                    one = table.slice(row - begin, 1)
                    self._compare(one, row)
                    yield row, one.select(list(names))

    @contextmanager
    def _open(self) -> Iterator[Segment]:
        try:
            file = self.source.place.open(self.path)
        except FileNotFoundError as error:
            raise DamagedTrace(f"{self.shown} is gone: restore it from a copy") from error
        with file:
            yield Segment(file, self.shown, self.name.digest, self._checked)

    def _index(self) -> pa.Table | None:
        """What the footer has of the small columns: kept while there is room, for it is small."""
        if not self._indexed:
            return None
        key = (self.token, "index")
        found: pa.Table | None = self.source.cache.get(key)
        if found is None:
            with self._open() as segment:
                found = segment.index()
            if found is not None:
                self.source.cache.put(key, found, found.nbytes)
        return found

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _read_keys(self, segment: Segment, names: Sequence[str]) -> pa.Table:
        there = [one for one in names if one in self._there]
        index = segment.index(there)
        if index is not None:
            return index
        # the row groups' sums would read raw matrices: they are compared when one is asked
        raw = any(pa.types.is_binary(field.type) for field in segment.schema)
        return segment.read(segment.groups, there, sums=not raw)

    def _aligned(self, table: pa.Table, names: Sequence[str], shown: str) -> pa.Table:
        return align(table, pa.schema([self._schema.field(one) for one in names]), shown)

    def _compare(self, row: pa.Table, number: int) -> None:
        words = self.source.vocabulary
        for name in _COMPARED:
            value = row.column(name)[0].as_py()
            code = words.find(value) if isinstance(value, str) else value
            if code != int(self.keys[name][number]):
                raise DamagedTrace(f"{self.shown} is damaged: its index is of other matrices")
