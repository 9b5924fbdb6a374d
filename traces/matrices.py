"""Raw matrices and neuron norms, assembled from their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optgeom.traces.cells import CellIndex
from optgeom.traces.errors import DamagedTrace, NotCaptured
from optgeom.traces.parts import Part
from optgeom.traces.place import Place
from optgeom.traces.schema import STORED_DTYPES
from optgeom.traces.segment import open_segment, read_groups

_COMPARED = ("step", "layer", "stage", "row_start", "col_start")

Floats = np.ndarray[Any, np.dtype[np.float32]]


def neuron_norms(index: CellIndex, at: Sequence[int], length: int) -> Floats:
    """The norms of all rows of one cell.

    Args:
        index: of the table `neurons`.
        at: the cell's positions in it.
        length: how many rows the matrix has.

    Returns:
        (length,) float32; NaN where no block was written. Blocks of the same rows and other
        columns hold parts of the norms, which add up as squares do.
    """
    if len(at) == 1:
        part = index.parts[index.part[at[0]]]
        norms = part.list_at("neuron_norms", int(index.row[at[0]]))
        if norms is not None and len(norms) == length:
            whole: Floats = norms
            return whole
    squares = np.full(length, np.nan)
    blocks: dict[tuple[int, int], Floats] = {}
    for one in at:
        part, row = index.parts[index.part[one]], int(index.row[one])
        norms = part.list_at("neuron_norms", row)
        if norms is not None:
            blocks[_at(part, "row_start", row), _at(part, "col_start", row)] = norms
    for (start, _), norms in blocks.items():
        there = squares[start : start + len(norms)]
        squares[start : start + len(norms)] = np.where(np.isnan(there), 0.0, there) + (
            norms[: len(there)].astype(np.float64) ** 2
        )
    made: Floats = np.sqrt(squares).astype(np.float32)
    return made


def neuron_count(index: CellIndex, at: Sequence[int]) -> int:
    """How many rows the blocks of a cell reach to, where run.json does not say."""
    ends = [
        _at(index.parts[index.part[one]], "row_start", int(index.row[one]))
        + _at(index.parts[index.part[one]], "rows", int(index.row[one]))
        for one in at
    ]
    return max(ends, default=0)


def read_matrix(place: Place, index: CellIndex, at: Sequence[int], name: str) -> Floats:
    """Read one matrix and assemble it.

    Args:
        place: the trace's folder.
        index: of the table `updates`.
        at: the cell's positions in it.
        name: how to call the cell in errors.

    Returns:
        (m, n) float32, rows = neurons.

    Raises:
        DamagedTrace: a byte of it changed.
        NotCaptured: some of its blocks are not there.
    """
    blocks: dict[tuple[int, int], tuple[int, int, Floats]] = {}
    for number in sorted({int(index.part[one]) for one in at}):
        part = index.parts[number]
        within = [int(index.row[one]) for one in at if index.part[one] == number]
        for row, values in zip(within, _read_values(place, part, within), strict=True):
            shape = (_at(part, "rows", row), _at(part, "cols", row))
            dtype = part.column("dtype")[row].as_py()
            block = _decode(values, dtype, shape, place.of(part.path))
            blocks[_at(part, "row_start", row), _at(part, "col_start", row)] = (*shape, block)
    m = max(start + rows for (start, _), (rows, _, _) in blocks.items())
    n = max(start + cols for (_, start), (_, cols, _) in blocks.items())
    if sum(rows * cols for rows, cols, _ in blocks.values()) != m * n:
        raise NotCaptured(
            f"{name} is incomplete: {len(blocks)} of its blocks are there, others are missing; "
            "has a rank stopped before the others?"
        )
    if len(blocks) == 1:
        return next(iter(blocks.values()))[2]
    matrix: Floats = np.empty((m, n), np.float32)
    for (top, left), (rows, cols, block) in blocks.items():
        matrix[top : top + rows, left : left + cols] = block
    return matrix


def _read_values(place: Place, part: Part, rows: list[int]) -> list[memoryview]:
    shown = place.of(part.path)
    with place.open(part.path) as file:
        segment = open_segment(file, shown, part.name.digest)
        counts: list[int] = [
            segment.metadata.row_group(i).num_rows for i in range(segment.num_row_groups)
        ]
        ends = np.cumsum(counts)
        groups = np.searchsorted(ends, rows, side="right")
        values: dict[int, memoryview] = {}
        for group in sorted({int(one) for one in groups}):
            table = read_groups(file, segment, [group], [*_COMPARED, "values"], shown)
            begin = int(ends[group]) - counts[group]
            for row in (row for row, its in zip(rows, groups, strict=True) if its == group):
                if any(
                    table.column(name)[row - begin].as_py() != part.column(name)[row].as_py()
                    for name in _COMPARED
                ):
                    raise DamagedTrace(f"{shown} is damaged: its index is of other matrices")
                values[row] = memoryview(table.column("values")[row - begin].as_buffer())
    return [values[row] for row in rows]


def _decode(values: memoryview, dtype: str, shape: tuple[int, int], name: str) -> Floats:
    if dtype not in STORED_DTYPES or values.nbytes != shape[0] * shape[1] * STORED_DTYPES[dtype]:
        raise DamagedTrace(f"{name} is damaged: {values.nbytes} bytes are no {shape} {dtype}")
    if dtype == "bfloat16":
        wide = np.frombuffer(values, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    stored = {"float32": "<f4", "float16": "<f2", "float64": "<f8"}[dtype]
    made: Floats = np.frombuffer(values, stored).astype(np.float32).reshape(shape)
    return made


def _at(part: Part, column: str, row: int) -> int:
    value = part.column(column)[row].as_py()
    return int(value or 0)
