"""Rows to record batches: from what a training run hands over to what Arrow stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.schema import FLOATS


def make_batch(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, lost: Counter[str]
) -> pa.RecordBatch:
    """One record batch of rows; absent entries are null.

    Args:
        rows: column -> value; lists are float32 arrays.
        schema: strings stored as strings.
        lost: counts, by column, values that are no value of the column's type: they become null.
    """
    return pa.record_batch(
        [_column([row.get(field.name) for row in rows], field, lost) for field in schema],
        schema=schema,
    )


def _column(values: list[Any], field: pa.Field, lost: Counter[str]) -> pa.Array:
    if field.type == FLOATS:
        return _lists(values)
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        kept = [_coerce(value, field.type) for value in values]
        lost[field.name] += sum(
            new is None and old is not None for new, old in zip(kept, values, strict=True)
        )
        return pa.array(kept, field.type)


def _lists(values: Sequence[np.ndarray[Any, Any] | None]) -> pa.Array:
    lengths = [0 if value is None else len(value) for value in values]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    arrays = [value for value in values if value is not None]
    flat = np.concatenate(arrays) if arrays else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(flat, pa.float32()),
        mask=pa.array([value is None for value in values]),
    )


def _coerce(value: Any, kind: pa.DataType) -> Any:
    """The value as the column's type, or None: a 0-d tensor is a number here, an object is not."""
    if value is None:
        return None
    try:
        if pa.types.is_boolean(kind):
            made: Any = bool(value)
        elif pa.types.is_integer(kind):
            made = int(value)
        elif pa.types.is_floating(kind):
            made = float(value)
        else:
            made = str(value)
        pa.scalar(made, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return made
