"""Raw matrices and neuron norms, assembled from their blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import DamagedTrace, NotCaptured
from optgeom.traces.limits import MAX_SIDE, refuse, room
from optgeom.traces.reading.cells import Rows
from optgeom.traces.reading.part import Floats, Part
from optgeom.traces.reading.sealed import SealedPart
from optgeom.traces.schema import STORED_DTYPES

_BLOCK = ("row_start", "rows", "col_start", "cols", "dtype", "values")


def neuron_norms(parts: Sequence[Part], rows: Rows, length: int) -> Floats:
    """The norms of all rows of one cell.

    Args:
        parts: of the table `neurons`.
        rows: the cell's.
        length: how many rows the matrix has.

    Returns:
        (length,) float32, not to be written to; NaN where no block was written. Blocks of the same
        rows and other columns hold parts of the norms, which add up as squares do.
    """
    if len(rows) == 1:
        ((number, row),) = rows
        norms = parts[number].list_at("neuron_norms", row)
        if norms is not None and len(norms) == length:
            return norms
    squares, written = np.zeros(length), np.zeros(length, bool)
    blocks: dict[tuple[int, int], Floats] = {}
    for number, row in rows:
        part = parts[number]
        norms = part.list_at("neuron_norms", row)
        if norms is not None:
            at = int(part.integers("row_start")[row]), int(part.integers("col_start")[row])
            blocks[at] = norms
    if blocks and min(start for start, _ in blocks) < 0:
        raise DamagedTrace(f"{parts[rows.parts[0]].shown} is damaged: a block begins before row 0")
    for (start, _), norms in sorted(blocks.items(), key=lambda one: one[0][0]):
        there = squares[start : start + len(norms)]
        there += norms[: len(there)].astype(np.float64) ** 2
        written[start : start + len(norms)] = True
    made: Floats = np.sqrt(np.where(written, squares, np.nan)).astype(np.float32)
    return made


def neuron_count(parts: Sequence[Part], rows: Rows) -> int:
    """How many rows the blocks of a cell reach to, where run.json does not say.

    Raises:
        DamagedTrace: further than any matrix.
    """
    count = 0
    for number, row in rows:
        part = parts[number]
        end = int(part.integers("row_start")[row]) + int(part.integers("rows")[row])
        refuse(part.shown, "rows in a matrix", end, MAX_SIDE)
        count = max(count, end)
    return count


def refuse_many(parts: Sequence[Part], steps: int, length: int) -> None:
    """Raise DamagedTrace if norms over steps would take more memory than what was recorded may.

    Args:
        parts: of the table `neurons`.
        steps: how many.
        length: rows of the matrix.
    """
    if parts:
        recorded = room(sum(part.size for part in parts))
        folder = parts[0].shown.rpartition("/")[0]
        refuse(folder, "bytes of norms of one layer", 4 * steps * length, recorded)


def read_matrix(
    parts: Sequence[Part], rows: Rows, cell: tuple[str, str, int], shape: tuple[int, int] | None
) -> Floats:
    """Read one matrix and assemble it.

    Args:
        parts: of the table `updates`.
        rows: the cell's.
        cell: layer, stage and step.
        shape: (m, n) of the layer by run.json, which the blocks that are there do not know; None
            where it does not name the layer.

    Returns:
        (m, n) float32, rows = neurons.

    Raises:
        DamagedTrace: a byte of it changed.
        NotCaptured: some of its blocks are not there.
    """
    blocks: dict[tuple[int, int], tuple[str, np.ndarray[Any, Any]]] = {}
    for number in np.unique(rows.parts).tolist():
        part = parts[number]
        within = rows.rows[rows.parts == number].tolist()
        for _, block in _sealed(part).read_rows(within, _BLOCK):
            where = [_integer(block, one, part.shown) for one in _BLOCK[:4]]
            top, height, left, width = where
            values = block.column("values")[0].as_buffer()
            dtype = block.column("dtype")[0].as_py()
            if min(where) < 0 or values is None:
                raise DamagedTrace(
                    f"{part.shown} is damaged: a block of it is no block of a matrix"
                )
            stored = _stored(memoryview(values), dtype, (height, width), part.shown)
            blocks[top, left] = (dtype, stored)
    m = max(top + stored.shape[0] for (top, _), (_, stored) in blocks.items())
    n = max(left + stored.shape[1] for (_, left), (_, stored) in blocks.items())
    layer, stage, step = cell
    if shape is not None:
        m, n = _wanted((m, n), shape, one_per_neuron=stage == "second_moment")
    if not _cover(blocks, m, n):
        raise NotCaptured(
            f"{layer} {stage} at step {step} is incomplete: {len(blocks)} of its blocks are there, "
            "others are missing or overlap; has a rank stopped before the others?"
        )
    matrix: Floats = np.empty((m, n), np.float32)
    for (top, left), (dtype, stored) in blocks.items():
        height, width = stored.shape
        _decode(stored, dtype, matrix[top : top + height, left : left + width])
    return matrix


def _wanted(
    found: tuple[int, int], layer: tuple[int, int], *, one_per_neuron: bool
) -> tuple[int, int]:
    """The shape that blocks have to fill: the layer's, however few of them are there.

    A second moment may have one number per row, or per column, which no shape in run.json says.
    """
    (m, n), (rows, cols) = found, layer
    if m > rows or n > cols:
        return found  # of another shape than run.json says, and whoever takes it will see that
    if one_per_neuron and n == 1:
        return rows, 1
    if one_per_neuron and m == 1:
        return 1, cols
    return rows, cols


def _cover(blocks: Mapping[tuple[int, int], tuple[str, Any]], rows: int, cols: int) -> bool:
    """Whether blocks, by where they begin, hold every entry of a matrix once."""
    if sum(stored.size for _, stored in blocks.values()) != rows * cols:
        return False
    if len(blocks) == 1:
        return True
    seen = np.zeros((rows, cols), bool)
    for (top, left), (_, stored) in blocks.items():
        seen[top : top + stored.shape[0], left : left + stored.shape[1]] = True
    return bool(seen.all())


def _sealed(part: Part) -> SealedPart:
    if not isinstance(part, SealedPart):
        raise DamagedTrace(f"{part.shown} is a stream, and raw matrices have none")
    return part


def _stored(
    values: memoryview[Any], dtype: str, shape: tuple[int, int], name: str
) -> np.ndarray[Any, Any]:
    """A block as it is stored, without a copy; bfloat16 as the integers of its bits."""
    if dtype not in STORED_DTYPES or values.nbytes != shape[0] * shape[1] * STORED_DTYPES[dtype]:
        raise DamagedTrace(f"{name} is damaged: {values.nbytes} bytes are no {shape} {dtype}")
    kind = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2", "float64": "<f8"}[dtype]
    return np.frombuffer(values, kind).reshape(shape)


def _decode(stored: np.ndarray[Any, Any], dtype: str, into: Floats) -> None:
    """Write a block to its place in a matrix: the one copy that is made of it here."""
    if dtype != "bfloat16":
        np.copyto(into, stored, casting="same_kind")
        return
    bits = into.view(np.uint32)
    np.copyto(bits, stored)
    np.left_shift(bits, 16, out=bits)


def _integer(row: pa.Table, column: str, name: str) -> int:
    value = row.column(column)[0].as_py() or 0
    if not isinstance(value, int):
        raise DamagedTrace(f"{name} is damaged: {column} is {str(value)[:40]!r} in it")
    return value
