"""Norms of a matrix's rows and columns, whatever their scale.

On a CPU by torch's own sums: they share the threads, and the caches, of the step that has just
written the matrix. A sum adds up in a cascade, so that its error does not grow with its length;
BLAS and `vector_norm` were off by 1e-3 where a million equal terms round alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.scaling import reachable, scaled

Array = NDArray[np.float64]

# Between these bounds no float32 square that matters has left the normal range: entries lost to
# underflow are below 1e-19, so n of them change a sum by less than n * 1e-38 / 1e-26.
SMALLEST_SAFE_SUM = 1e-26
LARGEST_SAFE_SUM = 1e30
SMALLEST_SAFE_NORM, LARGEST_SAFE_NORM = SMALLEST_SAFE_SUM**0.5, LARGEST_SAFE_SUM**0.5

PIECE = 256
"""Entries that `vector_norm` adds up at once: so many equal terms cost it 3e-7."""

BLOCK = 1 << 18
"""Entries whose products are held at once: they stay in a core's cache, and large matrices need no
memory of their own size."""


def line_norms(matrix: Tensor) -> Tensor:
    """Norms of the rows, then of the columns, of one matrix.

    Reads it once. Rows and columns near the ends of float32's range cost a second, float64 pass
    over them alone.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.

    Returns:
        (m + n,) float64 on the matrix's device; NaN or Inf in a line that holds such. Relative
        error 4e-7 for float32 and narrower, 1e-14 for float64 input.
    """
    matrix = reachable(matrix.detach())
    if matrix.device.type != "cpu" or matrix.dtype == torch.float64:
        return blind_line_norms(matrix)
    matrix = matrix.to(torch.float32)
    if matrix.stride(0) < matrix.stride(1):  # a stored transpose is read as it lies
        squares = np.roll(_line_squares(matrix.mT), len(matrix))
    else:
        squares = _line_squares(matrix)
    rows = len(matrix)
    _repair(squares[:rows], matrix)
    _repair(squares[rows:], matrix.mT)
    return torch.from_numpy(np.sqrt(squares))


def row_norms(matrix: Tensor) -> Tensor:
    """Norms of the rows alone, for less than half of what `line_norms` costs.

    Args:
        matrix: As of `line_norms`.

    Returns:
        (m,), as of `line_norms`.
    """
    matrix = widened_here(matrix.detach())
    pieces = piece_norms(matrix)
    if pieces is not None:
        rows = pieces[:, 0] if pieces.shape[1] == 1 else np.sqrt(np.square(pieces).sum(1))
        lowest, highest = np.minimum.reduce(rows), np.maximum.reduce(rows)
        if lowest > SMALLEST_SAFE_NORM and highest < LARGEST_SAFE_NORM:  # no NaN does both
            return torch.from_numpy(rows)
        squares = np.square(rows)
    else:
        matrix = reachable(matrix)
        if matrix.dtype == torch.float64:
            return _by_scaling(matrix)[: len(matrix)]
        if not matrix.is_cpu:
            wide: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
            return wide
        sums = [(block * block).sum(1).numpy() for (block,) in row_blocks(matrix)]
        squares = np.concatenate(sums, dtype=np.float64)
    _repair(squares, matrix)
    return torch.from_numpy(np.sqrt(squares))


def widened_here(matrix: Tensor) -> Tensor:
    """A 16-bit matrix of the CPU as float32, which is summed up faster, conversion included."""
    return matrix.to(torch.float32) if matrix.is_cpu and matrix.dtype.itemsize < 4 else matrix


def piece_norms(matrix: Tensor) -> Array | None:
    """Norms of a few hundred entries each, which one read by `vector_norm` gives exactly enough.

    Args:
        matrix: (m, n), any.

    Returns:
        (m, k) float64: the norms of k pieces of each row; None of other dtypes than float32, of
        other devices than the CPU, and where the memory cannot be seen so.
    """
    rows, cols = matrix.shape
    if matrix.dtype != torch.float32 or not matrix.is_cpu or not matrix.is_contiguous():
        return None
    if cols > PIECE:
        if cols % PIECE:
            return None
        matrix = matrix.view(-1, PIECE)
    found = torch.linalg.vector_norm(matrix, dim=1).numpy()
    wide: Array = found.astype(np.float64).reshape(rows, -1)
    return wide


def blind_line_norms(matrix: Tensor) -> Tensor:
    """The same as `line_norms`, without a look at any value, so that no device is waited for.

    Accumulates in float64, where no square of a float32 leaves the range.

    Args:
        matrix: (m, n), any float dtype, on a device that has float64.

    Returns:
        As `line_norms`.
    """
    if matrix.dtype == torch.float64:
        return _by_scaling(matrix)
    rows = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
    return torch.cat([rows, torch.linalg.vector_norm(matrix, dim=0, dtype=torch.float64)])


def row_blocks(*matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matrices of one shape, a few rows of each at a time, about `BLOCK` entries.

    >>> [len(rows) for (rows,) in row_blocks(torch.zeros(5, 1 << 17))]
    [2, 2, 1]
    """
    rows, cols = matrices[0].shape
    count = max(1, BLOCK // max(1, cols))
    if rows <= count:
        yield matrices
        return
    for start in range(0, rows, count):
        yield tuple(matrix[start : start + count] for matrix in matrices)


def _line_squares(matrix: Tensor) -> Array:
    rows, cols = matrix.shape
    found = np.zeros(rows + cols)
    done = 0
    for (block,) in row_blocks(matrix):
        squares = block * block
        found[done : done + len(block)] = squares.sum(1).numpy()
        found[rows:] += squares.sum(0).numpy()
        done += len(block)
    return found


def _by_scaling(wide: Tensor) -> Tensor:
    unit, scale = scaled(wide)
    squares = unit.square()
    return torch.cat([squares.sum(1), squares.sum(0)]).sqrt() * scale


def _repair(squares: Array, matrix: Tensor) -> None:
    """Sum rows' float32 squares that left the safe range again in float64, where none leaves it."""
    # A NaN fails both comparisons.
    if squares.min() > SMALLEST_SAFE_SUM and squares.max() < LARGEST_SAFE_SUM:
        return
    unsafe = ~((squares > SMALLEST_SAFE_SUM) & (squares < LARGEST_SAFE_SUM))
    rows = np.flatnonzero(unsafe)
    count = max(1, BLOCK // max(1, matrix.shape[1]))
    for start in range(0, len(rows), count):
        which = rows[start : start + count]
        block = matrix[torch.from_numpy(which)]
        # most rows of an embedding's update are zero: their squares are right as they are
        if block.any():
            squares[which] = block.to(torch.float64).square().sum(1).numpy()
