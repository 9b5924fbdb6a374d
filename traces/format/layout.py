"""How the rows of a segment lie: those that are read together beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.batches import integers
from optgeom.traces.columns import numbers, one_array
from optgeom.traces.schema import FLOATS, TEXT

GROUP_BYTES = 1 << 19
_ORDER = ("step", "stage", "layer")

Numbers = np.ndarray[Any, Any]


def is_large(kind: pa.DataType) -> bool:
    """Whether a column of this type is read row by row, not as a whole."""
    return bool(pa.types.is_list(kind) or pa.types.is_binary(kind))


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """The row groups that a table is sealed in.

    Rows with lists are sorted by layer, stage and step, so that one layer over many steps lies in
    few groups: they hold at most GROUP_BYTES of list items, and where there is a choice they end
    where a layer's stage does. Rows of the same cell keep their order. A table without lists is
    one group as it is.

    Args:
        table: one chunk per column, layers and stages in the order of their appearance.
    """
    if not table.num_rows or all(field.type != FLOATS for field in table.schema):
        yield table
        return
    keys = [_order_of(table.column(name)) for name in _ORDER]
    order = np.lexsort(keys)
    changes = _changes([key[order] for key in keys[1:]])
    ends = group_ends(list_bytes(table)[order], changes)
    for start, end in zip([0, *ends], ends, strict=False):
        yield table.take(integers(order[start:end], pa.int64()))


def ends_of(table: pa.Table) -> list[int]:
    """Where the row groups of rows with lists end that are sorted already: as in row_groups.

    Args:
        table: one chunk per column.
    """
    return group_ends(
        list_bytes(table), _changes([_order_of(table.column(name)) for name in _ORDER[1:]])
    )


def list_bytes(table: pa.Table) -> Numbers:
    """The bytes of each row's list items, (n,) int64.

    Args:
        table: one chunk per column.
    """
    sizes = np.zeros(table.num_rows, np.int64)
    for name in (field.name for field in table.schema if field.type == FLOATS):
        array = one_array(table.column(name))
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :]
        sizes += 4 * np.diff(offsets[: len(array) + 1])
    return sizes


def group_ends(sizes: Numbers, changes: Numbers) -> list[int]:
    """Where row groups end.

    Args:
        sizes: the list bytes of each row, (n,).
        changes: the rows, ascending, before which a group ends best.

    Returns:
        Ends of groups, ascending; the last is n. No group is larger than GROUP_BYTES unless it has
        one row.

    >>> group_ends(np.full(6, GROUP_BYTES // 4), np.array([3]))
    [3, 6]
    >>> group_ends(np.full(6, GROUP_BYTES // 2), np.array([3]))
    [2, 3, 5, 6]
    """
    total = np.cumsum(sizes, dtype=np.int64)
    ends: list[int] = []
    start = best = 0
    for stop in [*(int(one) for one in changes if one), len(sizes)]:
        while total[stop - 1] - (total[start - 1] if start else 0) > GROUP_BYTES:
            before = total[start - 1] if start else 0
            if best == start:
                # one layer's stage is more than a group by itself
                best = int(np.searchsorted(total, before + GROUP_BYTES, side="right"))
                best = min(max(best, start + 1), stop)
            if best == stop:
                break
            ends.append(best)
            start = best
        best = stop
    return [*ends, len(sizes)]


def _order_of(column: pa.ChunkedArray) -> Numbers:
    array = one_array(column)
    return numbers(array.indices if array.type == TEXT else array)


def _changes(keys: list[Numbers]) -> Numbers:
    """The rows, ascending, at which any of the keys is another than before."""
    changes = np.zeros(len(keys[0]), bool)
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changes)
