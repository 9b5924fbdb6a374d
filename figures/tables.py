"""The data of a figure as a table: what its menu saves as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.figures.arrays import Floats
from optgeom.figures.reading import Missing


def numbers(values: Floats) -> pa.Array:
    """Return float64 with nulls where there is no number, so that CSV has an empty cell."""
    return pa.array(np.asarray(values, dtype=np.float64), mask=np.isnan(values))


def stacked(parts: Iterable[Mapping[str, Any]], columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Put the rows of several curves one below the other.

    Args:
        parts: per curve its columns: an array or a sequence each, or one value for every row.
        columns: the names in their order and their types; with no part the table is empty.
    """
    tables = []
    for part in parts:
        count = next(len(one) for one in part.values() if _is_column(one))
        tables.append(
            pa.table({name: _column(part[name], kind, count) for name, kind in columns.items()})
        )
    schema = pa.schema(list(columns.items()))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _is_column(value: Any) -> bool:
    return isinstance(value, (np.ndarray, pa.Array, list, tuple))


def _column(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    if not _is_column(value):
        return pa.repeat(pa.scalar(value, kind), count)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and pa.types.is_floating(kind):
        return numbers(value)
    return pa.array(value, kind) if not isinstance(value, pa.Array) else value.cast(kind)


def joined(sentences: Iterable[str], missing: Sequence[Missing]) -> str:
    """Return the text alternative of a figure: what it shows, then what it lacks."""
    said = [one for one in (*sentences, *(one.what for one in missing)) if one]
    return " ".join(said) or "Nothing to draw."
