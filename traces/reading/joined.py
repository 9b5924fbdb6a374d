"""trace.metrics(): one wide table from metrics, spectra and derived analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optgeom.traces.columns import one_chunk, validity
from optgeom.traces.errors import TraceError
from optgeom.traces.reading.cells import Newest
from optgeom.traces.reading.keys import Codes, Vocabulary, key_codes
from optgeom.traces.schema import KEYS, STAGES, TEXT


@dataclass(frozen=True, slots=True)
class Joined:
    """The wide table, and its keys as integers for filtering."""

    table: pa.Table
    keys: Mapping[str, Codes]

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return int(self.table.nbytes) + sum(codes.nbytes for codes in self.keys.values())


def join(
    tables: Sequence[pa.Table],
    schema: pa.Schema,
    vocabulary: Vocabulary,
    *,
    layers: Sequence[str],
    newest: Newest | None,
) -> Joined:
    """Join tables by cell; a later table fills only what the earlier ones leave null.

    Args:
        tables: each with the key columns and its own, one chunk per column.
        schema: the columns that are always there, keys first; further ones follow.
        vocabulary: shared by all tables of the trace.
        layers: the order of layers; others follow by name.
        newest: hides rows of superseded attempts; None: show all.

    Returns:
        Rows by step, layer, stage and attempt; of rows with the same cell in one table, each
        column's last value.
    """
    tables = [_visible(one, vocabulary, newest) for one in tables]
    coded = [key_codes(one, vocabulary) for one in tables]
    sizes = [one.num_rows for one in tables]
    keys = {
        name: np.concatenate([np.empty(0, np.int64), *(one[name] for one in coded)])
        for name in ("step", "layer", "stage", "attempt", "optimizer")
    }
    sorters = [
        keys["step"],
        _ranks(vocabulary, layers)[keys["layer"]],
        _ranks(vocabulary, STAGES)[keys["stage"]],
        keys["attempt"],
        _ranks(vocabulary, ())[keys["optimizer"]],
    ]
    order = np.lexsort(sorters[::-1])
    new = np.zeros(len(order), bool)
    new[:1] = True
    for one in sorters:
        new[1:] |= one[order][1:] != one[order][:-1]
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]

    columns = _keys_at(tables, first)
    begin = 0
    for table, size in zip(tables, sizes, strict=True):
        mine = group[begin : begin + size]
        begin += size
        everywhere = _last(mine, len(first))
        for name in table.schema.names:
            if name not in KEYS:
                values = _one(table.column(name))
                at = everywhere if not values.null_count else _last(mine, len(first), values)
                column = values.take(at)
                columns[name] = _fill(columns[name], column, name) if name in columns else column
    for one in schema:
        columns.setdefault(one.name, pa.nulls(len(first), one.type))
    names = [*schema.names, *(name for name in columns if name not in schema.names)]
    return Joined(
        pa.table({name: columns[name] for name in names}),
        {name: codes[first] for name, codes in keys.items()},
    )


def _last(group: Codes, count: int, values: pa.Array | None = None) -> pa.Array:
    """For each group its last row, or its last row with a value; null where there is none."""
    rows = np.arange(len(group))
    if values is not None:
        valid = validity(values)
        rows = rows if valid is None else rows[valid]
    at = np.full(count, -1, np.int64)
    at[group[rows]] = rows
    return pa.array(at, mask=at < 0)


def _visible(table: pa.Table, vocabulary: Vocabulary, newest: Newest | None) -> pa.Table:
    if newest is None:
        return table
    codes = key_codes(table, vocabulary)
    return one_chunk(table.filter(pa.array(newest.keeps(codes["step"], codes["attempt"]))))


def _keys_at(tables: Sequence[pa.Table], rows: Codes) -> dict[str, Any]:
    if not tables:
        return {name: pa.array([], kind) for name, kind in KEYS.items()}
    parts = [one.select(list(KEYS)) for one in tables]
    whole = one_chunk(pa.concat_tables(parts)).take(pa.array(rows))
    return {name: _one(whole.column(name)) for name in KEYS}


def _ranks(vocabulary: Vocabulary, first: Sequence[str]) -> Codes:
    """The rank of each word: those of `first` in their order, then the others by name."""
    known = {word: rank for rank, word in enumerate(first)}
    words = sorted(vocabulary.words, key=lambda word: (known.get(word, len(known)), word))
    ranks = np.empty(len(words), np.int64)
    for rank, word in enumerate(words):
        ranks[vocabulary.code(word)] = rank
    return ranks


def _fill(column: pa.Array, other: pa.Array, name: str) -> pa.Array:
    if column.null_count == 0:
        return column
    try:
        if column.type == TEXT:
            text = pc.coalesce(column.cast(pa.string()), other.cast(pa.string()))
            return text.dictionary_encode()
        return pc.coalesce(column, other.cast(column.type))
    except (pa.ArrowException, ValueError) as error:
        raise TraceError(
            f"a later analysis has {name} as {other.type}, which is {column.type} in the records: "
            "remove that analysis"
        ) from error


def _one(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.combine_chunks()
    if isinstance(chunks, pa.ChunkedArray):
        return chunks.chunk(0) if chunks.num_chunks else pa.array([], column.type)
    return chunks
