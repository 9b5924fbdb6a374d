"""Which rows of a table are those of another one, whatever order and row groups they lie in."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import numbers, one_array, one_chunk, validity

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hashes(table: pa.Table) -> Hashes:
    """A number for each row, (n,): the same for rows of the same bits, null and NaN too.

    Args:
        table: of columns as segments have them; strings as words of a dictionary or not.
    """
    found = np.zeros(table.num_rows, np.uint64)
    table = one_chunk(table)
    for name in table.schema.names:
        found = _mixed(found + _of(one_array(table.column(name))))
    return found


class Seen:
    """How often each row was seen; each stands for one that is equal to it.

    Args:
        given: the hashes of the rows, (n,).
    """

    def __init__(self, given: Hashes):
        self._known, self._left = np.unique(given, return_counts=True)

    def others(self, found: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows were not seen, (n,); what was is used up by it.

        >>> seen = Seen(np.array([3, 5, 5], np.uint64))
        >>> seen.others(np.array([5, 4], np.uint64)).tolist()
        [False, True]
        >>> seen.others(np.array([5, 5], np.uint64)).tolist()
        [False, True]
        """
        others = np.ones(len(found), bool)
        if not len(self._known):
            return others
        at = np.minimum(np.searchsorted(self._known, found), len(self._known) - 1)
        rows = np.flatnonzero(self._known[at] == found)
        order = rows[np.argsort(at[rows], kind="stable")]
        which, starts, counts = np.unique(at[order], return_index=True, return_counts=True)
        # the first ones of each are those that were seen
        nth = np.arange(len(order)) - np.repeat(starts, counts)
        others[order[nth < np.repeat(self._left[which], counts)]] = False
        self._left[which] -= np.minimum(self._left[which], counts)
        return others


def _of(array: pa.Array) -> Hashes:
    kind = array.type
    if pa.types.is_dictionary(kind):
        indices = array.indices
        found = np.append(_of(array.dictionary), np.uint64(0))
        at = numbers(indices).astype(np.int64)
        valid = validity(indices)
        return found[at if valid is None else np.where(valid, at, len(found) - 1)]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        found = _each(array, lambda one: one.as_buffer())
    elif pa.types.is_list(kind):
        found = _each(array, lambda one: numbers(one.values).tobytes())
    else:
        if pa.types.is_temporal(kind):
            array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
        bits = numbers(array)
        found = _mixed(bits.view(f"u{bits.itemsize}").astype(np.uint64) + _ODD[0])
    valid = validity(array)
    return found if valid is None else np.where(valid, found, np.uint64(0))


def _each(array: pa.Array, content: Callable[[Any], Any]) -> Hashes:
    made = [
        int.from_bytes(blake2b(content(one), digest_size=8).digest()) if one.is_valid else 0
        for one in array
    ]
    return np.array(made, np.uint64)


def _mixed(values: Hashes) -> Hashes:
    """Each bit of the result depends on all bits; products are modulo 2^64."""
    values = values + _ODD[0]
    values = (values ^ (values >> np.uint64(30))) * _ODD[1]
    values = (values ^ (values >> np.uint64(27))) * _ODD[2]
    return values ^ (values >> np.uint64(31))
