"""A sealed segment as a part of a table: opened anew for each read, nothing kept but keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from optgeom.traces.checked import Segment
from optgeom.traces.columns import align, one_array, one_chunk
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.keys import CELL, Keys
from optgeom.traces.names import PartName
from optgeom.traces.part import Floats, Lists, Part, Source

_COMPARED = ("step", "layer", "stage")


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
            names = [one for one in CELL if one in fields.names]
            table = self._aligned(self._read_keys(segment, names), names, shown)
        keys = Keys.of(table, source.vocabulary, shown)
        types = {field.name: field.type for field in fields}
        super().__init__(source, name, path, size, keys, types)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """See Part."""
        with self._open() as segment:
            table = segment.columns([one for one in names if one in self._there])
        return self._aligned(table, names, self.shown)

    def list_at(self, name: str, row: int) -> Floats | None:
        """See Part; the lists of the whole row group are kept while there is room."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        key = (self.token, name, group)
        lists: Lists | None = self.source.cache.get(key)
        if lists is None:
            with self._open() as segment:
                column = one_chunk(segment.read([group], [name])).column(0)
            lists = Lists.of(one_array(column), self.shown)
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

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _read_keys(self, segment: Segment, names: Sequence[str]) -> pa.Table:
        there = [one for one in names if one in self._there]
        raw = any(pa.types.is_binary(field.type) for field in segment.schema)
        if raw and not segment.indexed:
            # the row groups' sums would read the matrices: they are compared when one is asked
            return segment.read(segment.groups, there, sums=False)
        return segment.columns(there)

    def _aligned(self, table: pa.Table, names: Sequence[str], shown: str) -> pa.Table:
        return align(table, pa.schema([self._schema.field(one) for one in names]), shown)

    def _compare(self, row: pa.Table, number: int) -> None:
        words = self.source.vocabulary
        for name in _COMPARED:
            value = row.column(name)[0].as_py()
            code = words.find(value) if isinstance(value, str) else value
            if code != int(self.keys[name][number]):
                raise DamagedTrace(f"{self.shown} is damaged: its index is of other matrices")
