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
    lists = [field.name for field in table.schema if field.type == FLOATS]
    if not lists or not table.num_rows:
        yield table
        return
    keys = [_order_of(table.column(name)) for name in _ORDER]
    order = np.lexsort(keys)
    changes = np.zeros(len(order), bool)
    for key in keys[1:]:
        changes[1:] |= key[order][1:] != key[order][:-1]
    ends = group_ends(_list_bytes(table, lists)[order], np.flatnonzero(changes))
    for start, end in zip([0, *ends], ends, strict=False):
        yield table.take(integers(order[start:end], pa.int64()))


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


def _list_bytes(table: pa.Table, lists: list[str]) -> Numbers:
    sizes = np.zeros(table.num_rows, np.int64)
    for name in lists:
        array = one_array(table.column(name))
        offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :]
        sizes += 4 * np.diff(offsets[: len(array) + 1])
    return sizes
