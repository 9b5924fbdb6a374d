"""Norms of a matrix's rows and columns, whatever their scale.

On a CPU by numpy, on one core: matrices of a few MB are read faster than a team of threads is
gathered, and while another thread is at work a team waits for its last member.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.scaling import reachable, scaled

Array = NDArray[np.float64]

# Between these bounds no float32 square that matters has left the normal range: entries lost to
# underflow are below 1e-19, so n of them change a sum by less than n * 1e-38 / 1e-26.
_SMALLEST_SAFE_SUM = 1e-26
_LARGEST_SAFE_SUM = 1e30

# Terms of one float32 sum. Equal terms round alike, so that a sum's error grows with its length:
# BLAS adds up dozens of sums at once, einsum one.
_ROW_PIECE = 512
_COLUMN_PIECE = 16


def line_norms(matrix: Tensor) -> Tensor:
    """Norms of the rows, then of the columns, of one matrix.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.

    Returns:
        (m + n,) float64 on the matrix's device; NaN or Inf in a line that holds such. Relative
        error 4e-7 for float32 and narrower, 1e-14 for float64 input.
    """
    matrix = reachable(matrix.detach())
    if matrix.device.type != "cpu":
        return blind_line_norms(matrix)
    return torch.from_numpy(host_line_norms(on_host(matrix)))


def on_host(matrix: Tensor) -> NDArray[Any]:
    """A matrix on the CPU as float32 or float64, without a copy where it has such a dtype."""
    narrow = matrix.dtype not in (torch.float32, torch.float64)
    found: NDArray[Any] = (matrix.to(torch.float32) if narrow else matrix).numpy()
    return found


def host_line_norms(matrix: NDArray[Any]) -> Array:
    """The same as `line_norms`, of an array.

    Reads it twice; rows and columns near the ends of float32's range cost a second, float64 pass
    over them alone.

    Args:
        matrix: (m, n) float32 or float64; C order is fast.

    Returns:
        (m + n,).
    """
    rows, cols = matrix.shape
    found = np.empty(rows + cols)
    with np.errstate(over="ignore", invalid="ignore"):
        found[:rows] = _row_squares(matrix)
        found[rows:] = _column_squares(matrix)
        # A NaN fails both comparisons.
        if not (found.min() > _SMALLEST_SAFE_SUM and found.max() < _LARGEST_SAFE_SUM):
            if matrix.dtype == np.float64:
                return _by_scaling(torch.from_numpy(matrix)).numpy()
            _repair(matrix, found)
        return np.sqrt(found, out=found)


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


def _row_squares(matrix: NDArray[Any]) -> Array:
    rows, cols = matrix.shape
    if cols <= 2 * _ROW_PIECE:
        found: Array = np.vecdot(matrix, matrix)
        return found
    rest = cols % _ROW_PIECE
    pieces = matrix[:, : cols - rest].reshape(rows, -1, _ROW_PIECE)
    found = np.vecdot(pieces, pieces).sum(-1, dtype=np.float64)
    return found + np.vecdot(matrix[:, -rest:], matrix[:, -rest:]) if rest else found


def _column_squares(matrix: NDArray[Any]) -> Array:
    rows, cols = matrix.shape
    rest = rows % _COLUMN_PIECE
    pieces = matrix[: rows - rest].reshape(-1, _COLUMN_PIECE, cols)
    found: Array = np.einsum("kij,kij->kj", pieces, pieces).sum(0, dtype=np.float64)
    return found + np.einsum("ij,ij->j", matrix[-rest:], matrix[-rest:]) if rest else found


def _by_scaling(wide: Tensor) -> Tensor:
    unit, scale = scaled(wide)
    squares = unit.square()
    return torch.cat([squares.sum(1), squares.sum(0)]).sqrt() * scale


def _repair(matrix: NDArray[Any], squares: Array) -> None:
    """Sum float32 squares that left the safe range again in float64, where none leaves it."""
    rows = matrix.shape[0]
    unsafe = ~((squares > _SMALLEST_SAFE_SUM) & (squares < _LARGEST_SAFE_SUM))
    which = np.flatnonzero(unsafe[:rows])
    squares[which] = np.square(matrix[which], dtype=np.float64).sum(1)
    which = np.flatnonzero(unsafe[rows:])
    squares[rows + which] = np.square(matrix[:, which], dtype=np.float64).sum(0)
