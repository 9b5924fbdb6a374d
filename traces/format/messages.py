"""Arrow IPC messages, looked at before Arrow takes memory for what they claim.

A message is metadata, a flatbuffer, and a body. The metadata say how many rows there are, where in
the body each buffer lies, and whether it is compressed; a compressed buffer begins with the number
of bytes that it will take. Only these numbers are read here; whatever else there is, Arrow compares
itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from optgeom.traces.columns import is_plain
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.limits import MAX_COLUMNS, refuse

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
_CONTINUATION = 0xFFFFFFFF
_PREFIX = 8
_BUFFER = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream.

    Attributes:
        kind: SCHEMA, DICTIONARY or BATCH.
        end: where the next one begins.
        rows: of a batch; of a dictionary its words; 0 of a schema.
        decoded: bytes that its buffers take once they are uncompressed.
    """

    kind: int
    end: int
    rows: int = 0
    decoded: int = 0


def messages(data: memoryview[Any], name: str) -> Iterator[Message]:
    """The messages of a stream, one after another, up to its end or its end marker.

    Args:
        data: whole messages.
        name: how to call the file in errors.

    Raises:
        DamagedTrace: one is none, or claims more than it holds.
    """
    at = 0
    while at < len(data):
        try:
            found = _message(data, at)
        except (struct.error, ValueError, IndexError) as error:
            raise DamagedTrace(f"{name} is damaged: no Arrow message at byte {at}") from error
        if found is None:
            return
        yield found
        at = found.end


def read_schema(data: memoryview[Any], name: str) -> pa.Schema:
    """The schema that a stream begins with.

    Raises:
        DamagedTrace: it does not begin so, or the schema is none of a table of a trace.
    """
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {str(error).partition(chr(10))[0]}") from error
    check_schema(schema, name)
    return schema


def check_schema(schema: pa.Schema, name: str) -> None:
    """Raise DamagedTrace for columns that no table of a trace has."""
    refuse(name, "columns", len(schema), MAX_COLUMNS)
    try:
        names = schema.names
        others = [f"{one.name} as {one.type}" for one in schema if not is_plain(one.type)]
    except UnicodeDecodeError as error:
        raise DamagedTrace(f"{name} is damaged: the name of a column is no text") from error
    if len(set(names)) < len(names):
        raise DamagedTrace(f"{name} has two columns of one name: no run wrote it")
    if others:
        raise DamagedTrace(
            f"{name} has {ascii(others[0])[1:81]}, which no trace holds: "
            "its columns are numbers, words, times and lists of numbers"
        )


def _message(data: memoryview[Any], at: int) -> Message | None:
    start, size = struct.unpack_from("<Ii", data, at)
    if start != _CONTINUATION:
        raise ValueError("no continuation")
    if size == 0:
        return None
    body = at + _PREFIX + size
    if size < 0 or body > len(data):
        raise ValueError("metadata beyond the end")
    table = _Table.root(data[at + _PREFIX : body])
    kind, header, length = table.number("<B", 1), table.table(2), table.number("<q", 3)
    if not 0 <= length <= len(data) - body or header is None:
        raise ValueError("a body beyond the end")
    if kind == SCHEMA:
        return Message(kind, body + length)
    batch = header.table(1) if kind == DICTIONARY else header
    if kind not in (DICTIONARY, BATCH) or batch is None:
        raise ValueError("no batch")
    rows = batch.number("<q", 0)
    decoded = _decoded(batch, data[body : body + length])
    if rows < 0:
        raise ValueError("fewer rows than none")
    return Message(kind, body + length, rows, decoded)


def _decoded(batch: _Table, body: memoryview[Any]) -> int:
    """The bytes that the buffers of a batch take; they lie in the body, one after another."""
    compressed = batch.table(3) is not None
    total = end = 0
    for offset, length in batch.structs(2, _BUFFER):
        if offset < end or length < 0 or offset + length > len(body):
            raise ValueError("a buffer outside of the body, or two in one place")
        end = offset + length
        if compressed and length:
            (size,) = struct.unpack_from("<q", body[offset:end])
            if size < -1:
                raise ValueError("a buffer of less than nothing")
            length = length if size == -1 else size
        total += length
    return total


class _Table:
    """A table of a flatbuffer; reading beyond its bytes is a struct.error or an IndexError."""

    def __init__(self, data: memoryview[Any], at: int):
        self._data, self._at = data, at
        (back,) = struct.unpack_from("<i", data, at)
        self._fields = _inside(data, at - back)
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: memoryview[Any]) -> _Table:
        (at,) = struct.unpack_from("<I", data, 0)
        return cls(data, _inside(data, at))

    def number(self, form: str, field: int) -> int:
        at = self._where(field)
        if at is None:
            return 0
        (found,) = struct.unpack_from(form, self._data, at)
        return int(found)

    def table(self, field: int) -> _Table | None:
        at = self._where(field)
        return None if at is None else _Table(self._data, self._points(at))

    def structs(self, field: int, form: struct.Struct) -> Iterator[tuple[int, int]]:
        at = self._where(field)
        if at is None:
            return iter(())
        start = self._points(at)
        (count,) = struct.unpack_from("<I", self._data, start)
        end = start + 4 + count * form.size
        if end > len(self._data):
            raise ValueError("a vector beyond the end")
        return form.iter_unpack(self._data[start + 4 : end])

    def _points(self, at: int) -> int:
        (step,) = struct.unpack_from("<I", self._data, at)
        return _inside(self._data, at + step)

    def _where(self, field: int) -> int | None:
        at = 4 + 2 * field
        if at + 2 > self._size:
            return None
        (step,) = struct.unpack_from("<H", self._data, self._fields + at)
        return _inside(self._data, self._at + step) if step else None


def _inside(data: memoryview[Any], at: int) -> int:
    if not 0 <= at < len(data):
        raise IndexError("a place outside of the metadata")
    return at
