"""The rows of several segments into one, a row group of each in memory at a time.

Nothing is parsed that was not compared with its checksum, and no value changes on the way: of rows
with lists and matrices not even the order of those that tell of one cell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.batches import integers
from optgeom.traces.columns import numbers, one_array, one_chunk
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import OpenFile, Place
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.layout import GROUP_BYTES, ends_of, list_bytes
from optgeom.traces.format.segment import SCALAR_ROWS_PER_GROUP, SegmentWriter
from optgeom.traces.names import PartName
from optgeom.traces.reading.keys import Codes, Vocabulary
from optgeom.traces.schema import FLOATS

_ORDER = ("step", "stage", "layer")


class DamagedInput(DamagedTrace):
    """One of the segments that are merged is damaged.

    Args:
        path: of it, within the trace.
        error: what is wrong with it.
    """

    def __init__(self, path: str, error: DamagedTrace):
        super().__init__(str(error))
        self.path = path


class Input:
    """A segment that is read to be merged; it is open from the first row group until `close`.

    Args:
        place: the trace's folder.
        path: within it.
        name: attempt, rank, sequence and digest.

    Attributes:
        path: as above.
        size: of the file, in bytes.
        schema: the columns.
        ends: the row after each row group, (g,).
        rows: how many.
        bytes: of each row group in memory, about, (g,).

    Raises:
        DamagedInput: its footer changed.
        FileNotFoundError: it has gone.
    """

    def __init__(self, place: Place, path: str, name: PartName):
        self._place, self._name = place, name
        self.path = path
        self._file: OpenFile | None = None
        try:
            with place.open(path) as file:
                self._footer = Segment(file, place.of(path), name.digest).footer
        except DamagedTrace as error:
            raise DamagedInput(path, error) from error
        footer = self._footer
        self.size = footer.size
        self.schema: pa.Schema = footer.schema.remove_metadata()
        self.ends = footer.ends
        self.rows = int(footer.metadata.num_rows)
        sizes = [footer.metadata.row_group(one).total_byte_size for one in footer.groups]
        self.bytes = np.array(sizes, np.int64)

    def close(self) -> None:
        """Close the file; any number of times."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def groups(self) -> Iterator[pa.Table]:
        """Every row group, one after another."""
        for group in self._footer.groups:
            yield self.group(group)
        self.close()

    def group(self, number: int) -> pa.Table:
        """One row group, all columns; every checksum compared.

        Raises:
            DamagedInput: a byte of it changed.
        """
        return self._read(number, None).select(self.schema.names)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some small columns of all rows.

        Raises:
            DamagedInput: a byte of them changed, or a key is null.
        """
        try:
            found = self._footer.index(names)
        except DamagedTrace as error:
            raise DamagedInput(self.path, error) from error
        if found is None:
            found = pa.concat_tables([self._read(one, names) for one in self._footer.groups])
        for name in names:
            if found.column(name).null_count:
                null = DamagedTrace(f"{self._place.of(self.path)} has rows without {name}")
                raise DamagedInput(self.path, null)
        return one_chunk(found)

    def _read(self, group: int, names: Sequence[str] | None) -> pa.Table:
        if self._file is None:
            self._file = self._place.open(self.path)
        name = self._place.of(self.path)
        try:
            segment = Segment(self._file, name, self._name.digest, None, self._footer)
            return segment.read([group], names)
        except DamagedTrace as error:
            raise DamagedInput(self.path, error) from error


def merge(inputs: Sequence[Input], writer: SegmentWriter) -> int:
    """Append the rows of segments to another, laid down as if they had been sealed together.

    Args:
        inputs: of one table, with the same columns, by sequence.
        writer: of the same columns.

    Returns:
        How many rows.

    Raises:
        DamagedInput: one of them is damaged; what was written is of no use then.
    """
    types = inputs[0].schema.types
    if any(map(pa.types.is_binary, types)):
        _copy(inputs, writer)
    elif FLOATS in types:
        _sort(inputs, writer)
    else:
        _append(inputs, writer)
    return sum(one.rows for one in inputs)


def _copy(inputs: Sequence[Input], writer: SegmentWriter) -> None:
    """Row group by row group: raw matrices lie by step already."""
    for one in inputs:
        for group in one.groups():
            writer.write(group)


def _append(inputs: Sequence[Input], writer: SegmentWriter) -> None:
    """Rows in their order, for the last one of a cell counts; in row groups of the usual length."""
    pending: list[pa.Table] = []
    for one in inputs:
        for group in one.groups():
            pending.append(group)
            while sum(each.num_rows for each in pending) >= SCALAR_ROWS_PER_GROUP:
                whole = one_chunk(pa.concat_tables(pending))
                writer.write(whole.slice(0, SCALAR_ROWS_PER_GROUP))
                pending = [whole.slice(SCALAR_ROWS_PER_GROUP)]
    if sum(each.num_rows for each in pending):
        writer.write(one_chunk(pa.concat_tables(pending)))


def _sort(inputs: Sequence[Input], writer: SegmentWriter) -> None:
    """By layer, stage and step, those of one cell in their order: as `layout.row_groups` does."""
    pending: list[pa.Table] = []
    size = 0
    for table in _in_order(inputs):
        pending.append(table)
        size += int(list_bytes(table).sum())
        if size <= GROUP_BYTES:
            continue
        whole = one_chunk(pa.concat_tables(pending))
        *ends, _ = ends_of(whole)
        for start, end in zip([0, *ends], ends, strict=False):
            writer.write(whole.slice(start, end - start))
        # it may go on: only what follows shows where it ends
        rest = whole.slice(ends[-1] if ends else 0)
        pending, size = [rest], int(list_bytes(rest).sum())
    if pending:
        whole = one_chunk(pa.concat_tables(pending))
        ends = ends_of(whole)
        for start, end in zip([0, *ends], ends, strict=False):
            writer.write(whole.slice(start, end - start))


def _in_order(inputs: Sequence[Input]) -> Iterator[pa.Table]:
    """All rows by layer, stage and step, in tables of about a row group's bytes."""
    which, within, groups, order = _ordered(inputs)
    rows = [np.diff(one.ends, prepend=0) for one in inputs]
    each = [one.bytes / np.maximum(count, 1) for one, count in zip(inputs, rows, strict=True)]
    sizes = np.concatenate([np.repeat(*both) for both in zip(each, rows, strict=True)])[order]
    piece = (np.cumsum(sizes) // GROUP_BYTES).astype(np.int64)
    starts = np.flatnonzero(np.diff(piece, prepend=-1)).tolist()
    held = _Held(inputs)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        chosen = order[start:end]
        pairs = np.stack([which[chosen], groups[chosen]], axis=1)
        distinct, place = np.unique(pairs, axis=0, return_inverse=True)
        # the rows of each row group together, then all of them to where they belong
        together = np.argsort(place.reshape(-1), kind="stable")
        found, at = [], 0
        for (number, group), count in zip(
            distinct.tolist(), np.bincount(place.reshape(-1)).tolist(), strict=True
        ):
            its = within[chosen[together[at : at + count]]]
            begin = int(inputs[number].ends[group - 1]) if group else 0
            found.append(held.group(number, group).take(integers(its - begin, pa.int64())))
            at += count
        back = np.empty(len(together), np.int64)
        back[together] = np.arange(len(together))
        yield one_chunk(pa.concat_tables(found)).take(integers(back, pa.int64()))


def _ordered(inputs: Sequence[Input]) -> tuple[Codes, Codes, Codes, Codes]:
    """Of all rows, one input after another: input, row in it, row group; and their order."""
    words = {name: Vocabulary() for name in _ORDER}
    keys: dict[str, list[Any]] = {name: [] for name in _ORDER}
    for one in inputs:
        table = one.columns(_ORDER)
        for name in _ORDER:
            column = one_array(table.column(name))
            is_text = pa.types.is_dictionary(column.type)
            keys[name].append(words[name].encode(column) if is_text else numbers(column))
    counts = [one.rows for one in inputs]
    which = np.repeat(np.arange(len(inputs)), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    groups = np.concatenate(
        [np.searchsorted(one.ends, np.arange(one.rows), side="right") for one in inputs]
    )
    # stable: of one cell, what was written later comes later
    order = np.lexsort([np.concatenate(keys[name]) for name in _ORDER])
    return which, within, groups, order


class _Held:
    """Row groups that were read lately: in order, each input is in one or two of its own at a time.

    Args:
        inputs: that they are of.
    """

    def __init__(self, inputs: Sequence[Input]):
        self._inputs = inputs
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._room = 2 * sum(int(one.bytes.max()) for one in inputs)
        self._size = 0

    def group(self, number: int, group: int) -> pa.Table:
        """One row group of one input."""
        key = (number, group)
        if key not in self._kept:
            table = self._inputs[number].group(group)
            self._kept[key] = table
            self._size += int(table.nbytes)
            while self._size > self._room and len(self._kept) > 1:
                self._size -= int(self._kept.popitem(last=False)[1].nbytes)
        self._kept.move_to_end(key)
        return self._kept[key]
