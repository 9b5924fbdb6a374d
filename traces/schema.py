"""What a record is: the tables of a trace, their key columns and their fixed columns.

Metric columns belong to the geometry's catalogue and are not listed here: a writer is handed them
with their Arrow types, keeps them in run.json, and a reader builds the schema from there. So a
trace describes itself, and a trace of an older catalogue reads with nulls where it has no column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from optgeom.traces.errors import TraceError

SCHEMA_VERSION = 2
"""Of the traces that are written; docs/traces.md says what each version changed."""
MERGED_SINCE = 2
"""The version from which on a segment may stand for several sequences."""

TEXT = pa.dictionary(pa.int32(), pa.string())
FLOATS = pa.list_(pa.float32())

KEYS: Mapping[str, pa.DataType] = {
    "run": TEXT,
    "attempt": pa.int32(),
    "step": pa.int64(),
    "optimizer": TEXT,
    "layer": TEXT,
    "kind": TEXT,
    "block": pa.int16(),
    "stage": TEXT,
}
BLOCK_OF_A_CELL: Mapping[str, pa.DataType] = {
    "row_start": pa.int32(),
    "rows": pa.int32(),
    "col_start": pa.int32(),
    "cols": pa.int32(),
    "rank": pa.int32(),
}
FIXED: Mapping[str, Mapping[str, pa.DataType]] = {
    "metrics": {
        "lr": pa.float64(),
        "decay": pa.float64(),
        "decay_form": TEXT,
        "weight_decay": pa.float64(),
        "source": TEXT,
        "status": TEXT,
        "operand_dtype": TEXT,
    },
    "spectra": {
        "singular_values": FLOATS,
        "spectrum_status": TEXT,
        "spectrum_method": TEXT,
    },
    "neurons": {**BLOCK_OF_A_CELL, "neuron_norms": FLOATS},
    "updates": {**BLOCK_OF_A_CELL, "dtype": TEXT, "values": pa.binary()},
    "scalars": {"name": TEXT, "value": pa.float64()},
}
TABLES = tuple(FIXED)
CELL_TABLES = tuple(table for table in TABLES if table != "scalars")
SMALL_TABLES = tuple(table for table in TABLES if table != "updates")
OPEN_TABLES = ("metrics", "spectra")

STAGES = (
    "gradient",
    "momentum",
    "second_moment",
    "ns_input",
    "orthogonalized",
    "update",
    "weight",
    "applied",
)
STORED_DTYPES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
"""Element types of raw matrices, and their sizes in bytes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a record belongs; the run and the attempt are the writer's."""

    step: int
    optimizer: str
    layer: str
    kind: str
    block: int | None
    stage: str


def key_types(table: str) -> Mapping[str, pa.DataType]:
    """The key columns of a table, in order; scalars have no cell, only run, attempt and step."""
    if table == "scalars":
        return {name: KEYS[name] for name in ("run", "attempt", "step")}
    return KEYS


def table_schema(table: str, columns: Mapping[str, Mapping[str, str]]) -> pa.Schema:
    """The Arrow schema of one table of a trace.

    Args:
        table: one of TABLES.
        columns: run.json's `columns`: table -> metric column -> Arrow type by name ("float64").

    Raises:
        TraceError: a type is unknown, or a declared column has another type than the fixed one.
    """
    return _table_schema(table, tuple(columns.get(table, {}).items()))


@lru_cache(maxsize=64)
def _table_schema(table: str, declared: tuple[tuple[str, str], ...]) -> pa.Schema:
    fields = {**key_types(table), **FIXED[table]}
    for name, alias in declared:
        kind = arrow_type(alias, f"{table}.{name}")
        if fields.setdefault(name, kind) != kind:
            raise TraceError(
                f"column {table}.{name} is {fields[name]} in every trace, not {alias}: "
                "declare it so, or leave it out"
            )
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


def arrow_type(alias: str, column: str) -> pa.DataType:
    """The Arrow type of a declared column; strings are dictionary-encoded.

    Args:
        alias: "float64", "int64", "bool", "string", or another of Arrow's plain type names.
        column: the column it is for, named in the error.
    """
    try:
        kind = pa.type_for_alias(alias)
    except (ValueError, TypeError, KeyError) as error:
        raise TraceError(
            f"column {column} has type {alias!r}, which Arrow does not know: "
            "use float64, int64, bool or string"
        ) from error
    return TEXT if pa.types.is_string(kind) else kind


def check_columns(columns: Mapping[str, Mapping[str, str]]) -> None:
    """Raise TraceError unless the declared metric columns can make a trace.

    No column may stand in two tables beside the keys, for metrics() joins them.
    """
    unknown = set(columns) - set(OPEN_TABLES)
    if unknown:
        raise TraceError(
            f"columns were declared for {sorted(unknown)}: only {list(OPEN_TABLES)} take any"
        )
    names = [set(table_schema(table, columns).names) - set(KEYS) for table in OPEN_TABLES]
    shared = set.intersection(*names)
    if shared:
        raise TraceError(
            f"columns {sorted(shared)} stand in both metrics and spectra: declare each once"
        )


def sealed(schema: pa.Schema) -> pa.Schema:
    """The inverse of `plain`: strings dictionary-encoded, as segments have them."""
    return pa.schema(
        [
            pa.field(field.name, TEXT if pa.types.is_string(field.type) else field.type)
            for field in schema
        ]
    )


def plain(schema: pa.Schema) -> pa.Schema:
    """The same schema with strings stored as strings, as the write-ahead streams have them."""
    return pa.schema(
        [
            pa.field(field.name, pa.string() if field.type == TEXT else field.type)
            for field in schema
        ]
    )
