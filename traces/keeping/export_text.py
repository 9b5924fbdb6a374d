"""Tables as text that other programs read back: CSV, JSON lines; and Parquet beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.columns import numbers, one_array, one_chunk, validity
from optgeom.traces.errors import TraceError
from optgeom.traces.schema import TEXT

FORMULA = (
    *("=", "+", "-", "@", "\t", "\r"),
    *("\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}"),
    *("\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}"),
)
"""What a cell begins with that spreadsheets take for a formula."""


class Sink(Protocol):
    """Takes tables of one schema, one after the other."""

    def begin(self, schema: pa.Schema) -> None:
        """Once, before the first table.

        Raises:
            TraceError: the format cannot hold a column.
        """

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""


class CsvFile:
    """Comma-separated, one header line, UTF-8, a newline after each row.

    Numbers are written so that they read back as the same double; NaN, inf and -inf by these
    names; null is an empty cell. Text that a spreadsheet would take for a formula, and text that
    begins with an apostrophe, gets an apostrophe before it.
    """

    def __init__(self, file: TextIO):
        # csv puts quotes around what is in its end of line: a return inside of text as well
        self._writer = csv.writer(_Lines(file), lineterminator="\r\n")

    def begin(self, schema: pa.Schema) -> None:
        """See Sink."""
        for field in schema:
            if not _is_plain(field.type):
                raise TraceError(
                    f"column {field.name} holds {field.type}, which CSV cannot: "
                    "write .parquet, or another table"
                )
        self._writer.writerow([_no_formula(name) for name in schema.names])

    def write(self, table: pa.Table) -> None:
        """See Sink."""
        columns = [_cells(one_array(column)) for column in one_chunk(table).columns]
        self._writer.writerows(zip(*columns, strict=True))


class _Lines:
    """Ends lines with a newline alone."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, line: str) -> int:
        """Called by csv with a whole row."""
        return self._file.write(line.removesuffix("\r\n") + "\n")


class JsonLines:
    """One JSON object per row. NaN and Infinity stand as Python's json writes them."""

    def __init__(self, file: TextIO):
        self._file = file

    def begin(self, schema: pa.Schema) -> None:
        """See Sink."""
        for field in schema:
            if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                raise TraceError(
                    f"column {field.name} holds {field.type}, which JSON cannot: write .parquet"
                )

    def write(self, table: pa.Table) -> None:
        """See Sink."""
        for row in table.to_pylist():
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


class ParquetFile:
    """Parquet with Arrow's types as they are, compressed with zstd."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def begin(self, schema: pa.Schema) -> None:
        """See Sink."""

    def write(self, table: pa.Table) -> None:
        """See Sink."""
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


def _is_plain(kind: pa.DataType) -> bool:
    if kind == TEXT:
        return True
    tests = ("boolean", "integer", "floating", "string", "large_string", "null")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _cells(column: pa.Array) -> list[Any]:
    """A column as csv writes it."""
    if pa.types.is_null(column.type):
        return [""] * len(column)
    if column.type == TEXT:
        words = np.array([_no_formula(word) for word in column.dictionary.to_pylist()] + [""], "O")
        indices, valid = numbers(column.indices), validity(column.indices)
        return list(words[indices if valid is None else np.where(valid, indices, -1)])
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if one is None else _no_formula(one) for one in column.to_pylist()]
    values = numbers(column)
    if pa.types.is_boolean(column.type):
        cells = np.where(values, "true", "false").astype("O")
    elif pa.types.is_floating(column.type):
        cells = values.astype(np.float64).astype("O")
        cells[np.isnan(values)] = "NaN"
    else:
        cells = values.astype("O")
    valid = validity(column)
    if valid is not None:
        cells[~valid] = ""
    return list(cells)


def _no_formula(text: str) -> str:
    """Text that a spreadsheet shows as it is.

    >>> _no_formula("=1+1"), _no_formula("blocks.0.up"), _no_formula("'=")
    ("'=1+1", 'blocks.0.up', "''=")
    """
    return f"'{text}" if text.startswith((*FORMULA, "'")) else text
