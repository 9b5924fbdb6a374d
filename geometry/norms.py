"""Norms of a matrix's rows and columns, whatever their scale."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.scaling import reachable, scaled

# Between these bounds no float32 square that matters has left the normal range: entries lost to
# underflow are below 1e-19, so n of them change a sum by less than n * 1e-38 / 1e-26.
_SMALLEST_SAFE_SUM = 1e-26
_LARGEST_SAFE_SUM = 1e30


def line_norms(matrix: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Norms of the rows, then of the columns, of one matrix.

    On a CPU two reads of the matrix, one of them for the squares, which are read twice; rows and
    columns near the ends of float32's range cost a second, float64 pass over them alone. On other
    devices `blind_line_norms`.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.
        scratch: As for `norms_pass`.

    Returns:
        (m + n,) float64 on the matrix's device; NaN or Inf in a line that holds such. Relative
        error 4e-7 for float32 and narrower, 1e-14 for float64 input.
    """
    matrix = reachable(matrix.detach())
    if matrix.device.type != "cpu":
        return blind_line_norms(matrix)
    rows, cols = matrix.shape
    wide = matrix if matrix.dtype == torch.float64 else matrix.to(torch.float32)
    squares = torch.mul(wide, wide, out=room_for(wide, scratch))
    found = np.empty(rows + cols)
    found[:rows] = squares.sum(1).numpy()
    found[rows:] = squares.sum(0).numpy()
    # A NaN fails both comparisons.
    if not (found.min() > _SMALLEST_SAFE_SUM and found.max() < _LARGEST_SAFE_SUM):
        if wide.dtype == torch.float64:
            return _by_scaling(wide)
        _repair(wide, found)
    return torch.from_numpy(np.sqrt(found))


def room_for(matrix: Tensor, scratch: Tensor | None) -> Tensor:
    """Memory for a matrix like this one: the scratch where it serves, else new."""
    if scratch is None or scratch.dtype != matrix.dtype or scratch.numel() < matrix.numel():
        return torch.empty(matrix.shape, dtype=matrix.dtype, device=matrix.device)
    return scratch.as_strided(matrix.shape, (matrix.shape[1], 1))


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


def _by_scaling(wide: Tensor) -> Tensor:
    unit, scale = scaled(wide)
    squares = unit.square()
    return torch.cat([squares.sum(1), squares.sum(0)]).sqrt() * scale


def _repair(wide: Tensor, sums: NDArray[np.float64]) -> None:
    """Sum float32 squares that left the safe range again in float64, where none leaves it."""
    rows = wide.shape[0]
    unsafe = ~((sums > _SMALLEST_SAFE_SUM) & (sums < _LARGEST_SAFE_SUM))
    which = torch.from_numpy(np.flatnonzero(unsafe[:rows]))
    sums[:rows][which.numpy()] = wide[which].double().square().sum(1).numpy()
    which = torch.from_numpy(np.flatnonzero(unsafe[rows:]))
    sums[rows:][which.numpy()] = wide[:, which].double().square().sum(0).numpy()
