"""What a caller hands over, as the writer keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optgeom.traces.schema import STORED_DTYPES


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
