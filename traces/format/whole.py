"""Reading one file of a table as far as it is whole: what of it counts, and what is wrong."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from optgeom.traces.columns import one_array, one_chunk
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import Place
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.footer import Footer
from optgeom.traces.format.lost import Lost, lost_with
from optgeom.traces.format.messages import messages
from optgeom.traces.format.wal import (
    LINE,
    check_message,
    parse_batches,
    parse_line,
    read_stream,
    refuse_uncounted,
)
from optgeom.traces.names import PartName


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading a file as a whole came to.

    Attributes:
        rows: that could be read.
        message: what is wrong, in one line; empty: nothing.
        lost: the rows that could not be read, where that is known.
        footer: of a segment, where it is whole.
        groups: of a segment, the row groups that are whole.
        batches: of a stream, those that are whole.
        breaks: of a damaged stream, how many messages are not whole.
        unchecked: of a damaged stream, the last rows of `batches` that have no checksums; they are
            not among `rows`.
    """

    rows: int
    message: str = ""
    lost: Lost | None = None
    footer: Footer | None = None
    groups: tuple[int, ...] = ()
    batches: tuple[pa.RecordBatch, ...] = field(default=(), repr=False)
    breaks: int = 0
    unchecked: int = 0


def check_part(place: Place, path: str, name: PartName, schema: pa.Schema | None) -> Checked:
    """Read a segment or a stream, with every checksum.

    Args:
        place: the trace's folder.
        path: the file's, within it.
        name: what its name says.
        schema: of the table's streams, for one whose own is damaged; None: it is not known.

    Raises:
        FileNotFoundError: it has gone.
    """
    if name.digest:
        return _segment(place, path, name)
    return _stream(place, path, name, schema)


def _segment(place: Place, path: str, name: PartName) -> Checked:
    shown = place.of(path)
    try:
        with place.open(path) as file:
            footer = Footer.read(file, shown, name.digest)
            whole, broken, rows = [], [], 0
            reason = ""
            for group in footer.groups:
                try:
                    # of its own each, for what one takes in memory is given back
                    found = Segment(file, shown, name.digest, footer=footer).read([group])
                except DamagedTrace as error:
                    reason = reason or str(error)
                    broken.append(group)
                else:
                    whole.append(group)
                    rows += found.num_rows
                    reason = reason or _disagrees(footer, group, found, shown)
            segment = Segment(file, shown, name.digest, footer=footer)
            lost = lost_with(segment, broken) if broken else None
    except DamagedTrace as error:
        return Checked(0, str(error))
    if len(broken) > 1:
        reason += f" (and {len(broken) - 1} more of its {len(footer.groups)} row groups)"
    return Checked(rows, reason, lost, footer, tuple(whole))


def _disagrees(footer: Footer, group: int, found: pa.Table, shown: str) -> str:
    """What is wrong with an index that is of other rows than the file's; empty: nothing."""
    if not footer.indexed:
        return ""
    index = footer.index()
    start = int(footer.ends[group - 1]) if group else 0
    if index is None:
        return ""
    rows = index.slice(start, found.num_rows)
    for name in rows.schema.names:
        one, other = rows.column(name), None
        if name in found.schema.names:
            other = found.column(name)
        if other is None or not _plain(one).equals(_plain(other)):
            return f"{shown} is damaged: its index has other values of {name} than its rows"
    return ""


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Its values as they compare: words as words, and NaN as its bits."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    made = one_array(one_chunk(pa.table({"x": column})).column(0))
    return made.view(pa.int64()) if pa.types.is_floating(kind) else made


def _stream(place: Place, path: str, name: PartName, schema: pa.Schema | None) -> Checked:
    shown = place.of(path)
    sums_at = f"{path.rpartition('/')[0]}/{name.sums}"
    try:
        data = place.read(path)
        # after the stream, which may grow meanwhile
        sums = place.read(sums_at) if place.has(sums_at) else None
    except DamagedTrace as error:
        return Checked(0, str(error))
    try:
        if sums is None:
            raise DamagedTrace(f"{shown} is damaged: the .sums file beside it is missing")
        batches, position = read_stream(data, sums, shown)
        refuse_uncounted(data, position.offset, shown)
    except DamagedTrace as error:
        whole, breaks, unchecked = salvage(data, sums or b"", shown, schema)
        rows = sum(batch.num_rows for batch in whole) - unchecked
        found = tuple(whole)
        return Checked(rows, str(error), batches=found, breaks=breaks, unchecked=unchecked)
    return Checked(sum(batch.num_rows for batch in batches), batches=tuple(batches))


def salvage(
    data: bytes, sums: bytes, name: str, schema: pa.Schema | None
) -> tuple[list[pa.RecordBatch], int, int]:
    """The batches of a damaged stream: those that checksums confirm, and those that have none.

    Where a line of checksums is damaged, its message is given up, and the next one begins where
    that says itself that it ends. Messages behind the last line are taken as far as Arrow reads
    them, and finds nothing in them that cannot be.

    Args:
        data: the whole stream.
        sums: the whole .sums file.
        name: how to call the stream in errors.
        schema: to read the batches with, if the stream's own is damaged.

    Returns:
        The batches, how many messages are not whole, and how many of the last rows have no
        checksums.
    """
    view, at, breaks = memoryview(data), 0, 0
    head = None if schema is None else schema.serialize().to_pybytes()
    found: list[pa.RecordBatch] = []
    for number in range(len(sums) // LINE):
        line = parse_line(sums[number * LINE : (number + 1) * LINE])
        if line is None or line[0] <= at:
            breaks += 1
            at = max(at, _end(view, at))
            continue
        stop, crc = line
        if stop > len(data):
            # cut off, unless it is the line that changed and not the message
            stop = _end(view, at)
            if stop == at or zlib.crc32(view[at:stop]) != crc:
                return found, breaks, 0
            breaks += 1
        message = view[at:stop]
        at = stop
        if zlib.crc32(message) != crc:
            breaks += 1
            continue
        try:
            check_message(message, name, first=number == 0)
            if number == 0:
                head = bytes(message)
            elif head is None:
                breaks += 1
            else:
                found += parse_batches([head, message], name)
        except DamagedTrace:
            breaks += 1
    rest = _without_lines(view, at, head, name)
    return [*found, *rest], breaks, sum(batch.num_rows for batch in rest)


def _without_lines(
    data: memoryview[Any], at: int, head: bytes | None, name: str
) -> list[pa.RecordBatch]:
    """The batches from a byte on, up to the first one that is not whole.

    Args:
        data: the whole stream.
        at: where the first message begins that has no line of checksums.
        head: the schema; None: the stream's own, if it is there.
        name: how to call the stream in errors.
    """
    found: list[pa.RecordBatch] = []
    while (end := _end(data, at)) > at:
        message, first = data[at:end], at == 0
        try:
            check_message(message, name, first=first)
            if first:
                head = head or bytes(message)
            elif head is not None:
                found += parse_batches([head, message], name)
        except DamagedTrace:
            break
        at = end
    return found


def _end(data: memoryview[Any], at: int) -> int:
    """Where a message ends by its own word; where it begins if it does not say."""
    try:
        return next((one.end for one in messages(data[at:], "")), 0) + at
    except DamagedTrace:
        return at
