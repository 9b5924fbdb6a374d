"""Tables as this package wants them: one chunk per column, and the columns of a schema.

Arrays become numpy's by their buffers and not by `to_numpy`, which imports pandas where there is
one: half a second that a training run, or the first look at a trace, would pay for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.schema import TEXT


def one_chunk(table: pa.Table) -> pa.Table:
    """The same table with one chunk, and so one dictionary, per column."""
    if any(field.type == TEXT for field in table.schema):
        table = table.unify_dictionaries()
    return table.combine_chunks()


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column of at most one chunk as one array."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    """The numbers of an array of integers, floats or booleans, (n,); anything where it is null.

    >>> numbers(pa.array([3, None, 5], pa.int16())[1:]).tolist()[1:]
    [5]
    >>> numbers(pa.array([True, False, True])[1:]).tolist()
    [False, True]
    """
    start, end = array.offset, array.offset + len(array)
    buffer = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        return _bits(buffer, start, end)
    kind = np.dtype(array.type.to_pandas_dtype())
    return np.empty(0, kind) if buffer is None else np.frombuffer(buffer, kind)[start:end]


def validity(array: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Where an array is not null, (n,); None: everywhere.

    >>> validity(pa.array([3, None, 5])[1:]).tolist()
    [False, True]
    """
    if not array.null_count:
        return None
    return _bits(array.buffers()[0], array.offset, array.offset + len(array))


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column of this type is one that a table of a trace may have.

    Numbers, words, times, bytes, and lists of numbers. Not what refers to other values of itself,
    and so may say much with few bytes (views, run ends), nor what runs code to be read
    (extensions).

    >>> is_plain(pa.list_(pa.float32())), is_plain(TEXT), is_plain(pa.struct({"x": pa.int8()}))
    (True, True, False)
    """
    types = pa.types
    if types.is_dictionary(kind):
        return not types.is_nested(kind.value_type) and is_plain(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return bool(types.is_primitive(kind.value_type))
    return bool(types.is_primitive(kind) or types.is_decimal(kind)) or _family(kind) is not None


def _family(kind: pa.DataType) -> str | None:
    """What a type can be cast within; None: nothing."""
    types = pa.types
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind):
        return "words"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    if types.is_list(kind) or types.is_large_list(kind):
        return "lists" if types.is_floating(kind.value_type) else None
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "numbers"
    return "null" if types.is_null(kind) else None


def _castable(kind: pa.DataType, wanted: pa.DataType) -> bool:
    return kind == wanted or _family(kind) in ("null", _family(wanted))


def align(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The table with exactly the schema's columns; absent ones are null.

    Args:
        table: as it was read.
        schema: what is asked for.
        name: how to call the table's file in errors.

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
            if not _castable(table.schema.field(index).type, one.type):
                raise ValueError("neither is made of the other")
            columns.append(table.column(index).cast(one.type))
        except (pa.ArrowException, ValueError) as error:
            raise DamagedTrace(
                f"{name} has {one.name} as {table.schema.field(index).type}, run.json says "
                f"{one.type}: one of them is not of this trace"
            ) from error
    return one_chunk(pa.table(columns, schema=schema))


def _bits(buffer: pa.Buffer | None, start: int, end: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    packed = np.frombuffer(buffer or b"", np.uint8)
    return np.unpackbits(packed, count=end, bitorder="little")[start:].astype(bool)
