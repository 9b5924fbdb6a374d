"""What a caller hands over, as the writer keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from optgeom.traces.schema import STORED_DTYPES, Cell

Row = dict[str, Any]

CellRow = tuple[Cell, Mapping[str, Any], "np.ndarray[Any, Any]"]
"""A cell, its scalars, and its neuron norms, (m,) float32."""


class RowMaker:
    """Rows of one rank of one attempt: key columns, and values of columns that their table has.

    Args:
        run: the run's name.
        attempt: which one.
        rank: whose rows these are.
        columns: of each table.
        dropped: told of a value that is left out, as table.column, and why.
    """

    def __init__(
        self,
        run: str,
        attempt: int,
        rank: int,
        columns: Mapping[str, set[str]],
        dropped: Callable[[str, str], None],
    ):
        self._run, self._attempt, self._rank = run, attempt, rank
        self._columns = columns
        self._dropped = dropped
        self.shapes: dict[str, tuple[int, ...]] = {}

    def cell(self, key: Cell) -> Row:
        """The keys of a cell."""
        return {
            "run": self._run,
            "attempt": self._attempt,
            "step": key.step,
            "optimizer": key.optimizer,
            "layer": key.layer,
            "kind": key.kind,
            "block": key.block,
            "stage": key.stage,
        }

    def block(self, key: Cell, row_start: int, rows: int, col_start: int, cols: int | None) -> Row:
        """The keys of a block of a cell's rows; `cols` defaults to the layer's."""
        whole = self.shapes.get(key.layer, (0, 0))[1]
        return self.cell(key) | {
            "row_start": row_start,
            "rows": rows,
            "col_start": col_start,
            "cols": whole - col_start if cols is None else cols,
            "rank": self._rank,
        }

    def scalar(self, step: int, name: str, value: float) -> Row:
        """A number beside the geometry."""
        keys = {"run": self._run, "attempt": self._attempt, "step": step}
        return keys | {"name": name, "value": value}

    def fill(self, table: str, row: Row, values: Mapping[str, Any]) -> None:
        """Add values to a row; what its table has no column for, or a value already, is dropped."""
        for name, value in values.items():
            if name not in self._columns[table]:
                self._dropped(f"{table}.{name}", "no such column was declared")
            elif row.setdefault(name, value) is not value:
                self._dropped(f"{table}.{name}", "the cell has it already")

    def of_cells(self, cells: Iterable[CellRow]) -> Iterator[tuple[str, Row]]:
        """The rows of whole cells, with the table of each."""
        for key, values, norms in cells:
            row = self.cell(key)
            self.fill("metrics", row, values)
            yield "metrics", row
            yield "neurons", self.block(key, 0, len(norms), 0, None) | {"neuron_norms": norms}


def floats(values: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any] | None:
    """A copy of numbers as float32, (n,); None stays None.

    Raises:
        TypeError: they are no numbers.
        ValueError: as above.
    """
    return None if values is None else np.array(values, dtype=np.float32).reshape(-1)


def list_bytes(row: Mapping[str, Any]) -> int:
    """The bytes of a row's arrays."""
    return sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))


def matrix_bytes(values: Any, rows: int, cols: int, dtype: str) -> memoryview:
    """The bytes of a row block (rows, cols) in row-major order, without a copy where that is so.

    Raises:
        TypeError: the values are neither an array nor bytes.
        ValueError: their number is another.
    """
    data: Any = values if len(getattr(values, "shape", ())) != 2 else np.ascontiguousarray(values)
    view = memoryview(data).cast("B") if rows and cols else memoryview(b"")
    size = STORED_DTYPES.get(dtype, 0)
    if not size or view.nbytes != rows * cols * size:
        raise ValueError(f"{view.nbytes} bytes are no {rows} x {cols} {dtype}")
    return view
