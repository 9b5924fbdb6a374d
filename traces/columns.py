"""Tables as this package wants them: one chunk per column, and the columns of a schema."""

from __future__ import annotations

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
            columns.append(table.column(index).cast(one.type))
        except (pa.ArrowException, ValueError) as error:
            raise DamagedTrace(
                f"{name} has {one.name} as {table.schema.field(index).type}, run.json says "
                f"{one.type}: one of them is not of this trace"
            ) from error
    return one_chunk(pa.table(columns, schema=schema))
