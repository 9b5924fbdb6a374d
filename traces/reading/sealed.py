"""A sealed segment as a part of a table: read anew when it is asked, nothing kept but its keys.

What else is kept is in the cache, while there is room. Any number of threads may ask at once: no
lock is held while bytes are fetched, compared or parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import align, one_array
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import OpenFile
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.footer import Footer, check_footer, read_footer
from optgeom.traces.names import PartName
from optgeom.traces.reading.keys import CELL, Keys
from optgeom.traces.reading.part import Floats, Lists, Part, Source, Vanished
from optgeom.traces.schema import FLOATS, KEYS

_COMPARED = ("step", "layer", "stage")
_FEW = 4
_AT_ONCE = 16 << 20


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
        self.source, self.path, self.name, self.size = source, path, name, size
        self._checked: set[int] = set()
        # names the file in the cache; what is kept there shall not keep the part
        self._file = object()
        # an object store is asked twice for each file that is opened, and needs no handle for one
        # that stays open; a local file takes one, and opening it costs next to nothing
        self._opened = None if source.place.is_local else source.place.open(path)
        self._raw = schema is not None and any(pa.types.is_binary(one.type) for one in schema)
        with nullcontext(self._opened) if self._opened else source.place.open(path) as file:
            segment = self._segment(file)
            footer = segment.footer
            fields = _of_analysis(footer.schema, shown) if schema is None else schema
            self._schema: pa.Schema = fields
            self._there = frozenset(footer.schema.names)
            self._ends = footer.ends
            self._indexed = footer.indexed
            names = [one for one in CELL if one in fields.names]
            table = self._aligned(self._read_keys(segment, names), names)
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
            return self._aligned(index.select(there), names)
        if len(names) > _FEW or any(self.types[one] == FLOATS for one in there):
            return self._read(there, names)
        # a live run asks for the same few columns at every flush, and this file stays as it is
        return self.source.cache.made(
            (self.token, "columns", *names),
            lambda: self._read(there, names),
            lambda one: int(one.nbytes),
        )

    def list_at(self, name: str, row: int) -> Floats | None:
        """See Part; the lists of the whole row group are kept while there is room."""
        if name not in self._there:
            return None
        group = int(np.searchsorted(self._ends, row, side="right"))

        def read() -> Lists:
            with self._open() as segment:
                table = self._aligned(segment.read([group], [name]), [name])
            return Lists.of(one_array(table.column(0)), self.shown)

        with self._asked_for(row):
            lists = self.source.cache.made((self.token, name, group), read, lambda one: one.nbytes)
        return lists.at(row - self._start(group))

    def read_rows(
        self, rows: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Each of some rows as a table of one row, in the order of the file.

        Raises:
            DamagedTrace: a byte of them changed, or the keys that were read first are others.
        """
        groups = np.searchsorted(self._ends, rows, side="right")
        for group in np.unique(groups).tolist():
            wanted = [row for row, its in zip(rows, groups, strict=True) if its == group]
            with self._asked_for(wanted[0]):
                table = self._whole_group(group, names)
            begin = self._start(group)
            for row in wanted:
                one = table.slice(row - begin, 1)
                self._compare(one, row)
                yield row, one.select(list(names))

    def _whole_group(self, group: int, names: Sequence[str]) -> pa.Table:
        wanted = [*dict.fromkeys([*_COMPARED, *names])]

        def read() -> pa.Table:
            with self._open() as segment:
                found = segment.parse(segment.whole([group]), [group], wanted, views=True)
            missing = [one for one in wanted if one not in found.schema.names]
            if missing:
                raise DamagedTrace(f"{self.shown} has no column {missing[0]}: no run wrote it")
            return found

        if self._ends[group] - self._start(group) == 1:
            return read()
        # small matrices share a row group, and whoever asks for one asks for its neighbours soon
        return self.source.cache.made(
            (self.token, "rows", group, *names), read, lambda one: int(one.nbytes)
        )

    def _read(self, there: Sequence[str], names: Sequence[str]) -> pa.Table:
        with self._open() as segment:
            return self._aligned(self._all_groups(segment, there), names)

    def _all_groups(self, segment: Segment, names: Sequence[str]) -> pa.Table:
        if self.source.place.is_local or self._raw:
            # the checksums of row groups would read raw matrices: they are compared when one is
            # asked, and one that is damaged costs no other
            tables = [
                segment.read(groups, names, sums=not self._raw)
                for groups in _stretches(segment.footer)
            ]
            return tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        # all columns are fetched to be compared, and an object store is not asked again for others
        key = (self._file, "window")
        window = self.source.cache.get(key)
        if window is None and self._checked.issuperset(segment.groups):
            return segment.read(segment.groups, names)
        if window is None:
            window = self.source.cache.made(
                key, lambda: segment.whole(segment.groups), lambda one: one.nbytes
            )
        return segment.parse(window, segment.groups, names)

    @contextmanager
    def _open(self) -> Iterator[Segment]:
        try:
            if self._opened is not None:
                yield self._segment(self._opened)
                return
            with self.source.place.open(self.path) as file:
                yield self._segment(file)
        except FileNotFoundError as error:
            raise Vanished(self.path, self.shown) from error

    def _segment(self, file: OpenFile) -> Segment:
        name, digest = self.shown, self.name.digest
        key, cache = (self._file, "footer"), self.source.cache

        def read() -> bytes:
            data = read_footer(file, name, self.size)
            check_footer(data, name, digest)  # or what arrived wrong would be kept
            return data

        if self._raw or self.name.more:
            # asked for each matrix of a step, and each of many row groups of a layer; parsed, the
            # footers of others take more memory than their parsing takes time
            footer = cache.made(key, lambda: Footer.read(file, name, digest), lambda it: it.nbytes)
        elif self._opened is None:
            footer = Footer.read(file, name, digest)
        else:
            footer = Footer(cache.made(key, read, len), name, digest, self.size)
        return Segment(file, name, digest, self._checked, footer)

    def _index(self) -> pa.Table | None:
        """What the footer has of the small columns: kept while there is room, for it is small."""
        if not self._indexed:
            return None

        def read() -> pa.Table:
            with self._open() as segment:
                return segment.footer.index()

        return self.source.cache.made((self.token, "index"), read, lambda one: int(one.nbytes))

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _read_keys(self, segment: Segment, names: Sequence[str]) -> pa.Table:
        there = [one for one in names if one in self._there]
        index = segment.footer.index(there)
        return self._all_groups(segment, there) if index is None else index

    @contextmanager
    def _asked_for(self, row: int) -> Iterator[None]:
        """Say in an error of what cell the row was that cannot be read."""
        try:
            yield
        except Vanished:
            raise
        except DamagedTrace as error:
            cell = self.keys.cell(row, self.source.vocabulary)
            raise DamagedTrace(f"{error} (asked for {cell})") from error

    def _aligned(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        return align(table, pa.schema([self._schema.field(one) for one in names]), self.shown)

    def _compare(self, row: pa.Table, number: int) -> None:
        words = self.source.vocabulary
        for name in _COMPARED:
            value = row.column(name)[0].as_py()
            code = words.find(value) if isinstance(value, str) else value
            if code != int(self.keys[name][number]):
                raise DamagedTrace(f"{self.shown} is damaged: its index is of other matrices")


def _stretches(footer: Footer) -> list[range]:
    """All row groups, in stretches of some megabytes of the file: a merged segment has many."""
    starts = [0]
    for group in footer.groups:
        if footer.whole(group)[1] - footer.whole(starts[-1])[0] > _AT_ONCE and group > starts[-1]:
            starts.append(group)
    ends = [*starts[1:], len(footer.groups)]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def _of_analysis(schema: pa.Schema, name: str) -> pa.Schema:
    """The columns of a later analysis: its keys as those of all tables, and its own.

    Raises:
        DamagedTrace: a key is missing.
    """
    missing = [key for key in KEYS if key not in schema.names]
    if missing:
        raise DamagedTrace(f"{name} has no column {missing[0]}: no analysis wrote it")
    return pa.schema([pa.field(one.name, KEYS.get(one.name, one.type)) for one in schema])
