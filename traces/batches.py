"""Rows to record batches: from what a training run hands over to what Arrow stores.

Arrays are made of buffers and not by `pyarrow.array`, which imports pandas where there is one: two
seconds that a training run would pay for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.schema import FLOATS, TEXT

Numbers = np.ndarray[Any, Any]
_KEYS = ("step", "layer", "stage", "name")


def make_batch(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, lost: Counter[str]
) -> pa.RecordBatch:
    """One record batch of rows; absent entries are null.

    Args:
        rows: column -> value; lists are float32 arrays.
        schema: strings stored as strings, or dictionary-encoded.
        lost: counts, by column, values that are no value of the column's type: they become null.
    """
    columns = [_column([row.get(field.name) for row in rows], field, lost) for field in schema]
    return pa.record_batch(columns, schema=schema)


def with_keys(batch: pa.RecordBatch, lost: Counter[str]) -> pa.RecordBatch:
    """The rows that say what they are of: one without a step or a name would belong nowhere.

    Args:
        batch: from make_batch.
        lost: counts, by key, the rows that are left out.
    """
    whole = np.ones(batch.num_rows, bool)
    for name in _KEYS:
        column = batch.column(name) if name in batch.schema.names else None
        if column is not None and column.null_count:
            lost[name] = max(lost[name], column.null_count)
            whole &= column.is_valid().to_numpy(zero_copy_only=False)
    return batch if whole.all() else batch.filter(pa.array(whole))


def integers(values: Sequence[int] | Numbers, kind: pa.DataType) -> pa.Array:
    """An array of integers without nulls."""
    data = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def _column(values: list[Any], field: pa.Field, lost: Counter[str]) -> pa.Array:
    if field.type == FLOATS:
        return _lists(values)
    if pa.types.is_string(field.type):
        return _texts(values)
    if field.type == TEXT:
        return _words(values)
    try:
        return _numbers(values, field.type)
    except (TypeError, ValueError, OverflowError):
        kept = [_coerce(value, field.type) for value in values]
        lost[field.name] += sum(
            new is None and old is not None for new, old in zip(kept, values, strict=True)
        )
        return _numbers(kept, field.type)


def _numbers(values: list[Any], kind: pa.DataType) -> pa.Array:
    data = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
    if data.shape != (len(values),):
        raise ValueError("a value is no number but an array")
    if pa.types.is_boolean(kind):
        data = np.packbits(data, bitorder="little")
    return pa.Array.from_buffers(kind, len(values), [_validity(values), pa.py_buffer(data)])


def _texts(values: list[Any]) -> pa.Array:
    encoded = [b"" if one is None else str(one).encode(errors="replace") for one in values]
    return pa.Array.from_buffers(
        pa.string(),
        len(values),
        [_validity(values), _offsets([*map(len, encoded)]), pa.py_buffer(b"".join(encoded))],
    )


def _words(values: list[Any]) -> pa.Array:
    known = dict.fromkeys(one for one in values if one is not None)
    places = {word: at for at, word in enumerate(known)}
    indices = _numbers([None if one is None else places[one] for one in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, _texts([*places]))


def _lists(values: Sequence[Numbers | None]) -> pa.Array:
    arrays = [value for value in values if value is not None]
    flat = np.concatenate([np.empty(0, np.float32), *arrays], dtype=np.float32)
    items = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
    offsets = _offsets([0 if value is None else len(value) for value in values])
    return pa.Array.from_buffers(
        FLOATS, len(values), [_validity(values), offsets], children=[items]
    )


def _offsets(lengths: list[int]) -> pa.Buffer:
    return pa.py_buffer(np.cumsum([0, *lengths], dtype=np.int32))


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    valid = np.array([value is not None for value in values], bool)
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _coerce(value: Any, kind: pa.DataType) -> Any:
    """The value as the column's type, or None: a 0-d tensor is a number here, an object is not."""
    if value is None:
        return None
    number = kind.to_pandas_dtype()
    try:
        if pa.types.is_integer(kind):
            return number(int(value))
        return number(bool(value) if pa.types.is_boolean(kind) else float(value))
    except (TypeError, ValueError, OverflowError):
        return None
