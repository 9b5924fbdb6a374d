"""Singular values of batched matrices: float64 Gram matrix, and an SVD where that cannot see."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.scaling import scaled, widened

GRAM_RESOLUTION = 1.5e-7
"""Below this share of s_1 the Gram matrix tells nothing: squaring has used up float64's digits."""

SVD_RESOLUTION = 10 * float(np.finfo(np.float64).eps)
"""Below this share of s_1 a float64 SVD tells nothing."""

# torch.linalg does not list it among its public names, though torch documents it.
LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # as above

_logger = logging.getLogger(__name__)


class SingularValues(NamedTuple):
    """Spectra of a batch.

    Attributes:
        values: (..., r) float64, descending, r = min(m, n), on the matrices' device; NaN for a
            matrix that holds NaN or Inf, or whose decomposition did not converge.
        by_svd: (...,) bool: whether an SVD was needed.
    """

    values: Tensor
    by_svd: Tensor


def gram(wide: Tensor) -> Tensor:
    """Gram matrix of the short side.

    Args:
        wide: (..., m, n) float64, whose squares are in range.

    Returns:
        A A^T for m <= n, else A^T A: (..., r, r).
    """
    if wide.shape[-2] <= wide.shape[-1]:
        return wide @ wide.mT
    return wide.mT @ wide


@torch.no_grad()
def singular_values(matrix: Tensor) -> SingularValues:
    """Singular values, by the eigenvalues of the Gram matrix of the short side.

    Where the smallest falls below 1.5e-7 of the largest, that matrix alone is decomposed again
    by a float64 SVD. Cost: m n r multiplications and an r x r symmetric eigenproblem; an SVD is
    about twice that.

    Args:
        matrix: (..., m, n), any float dtype and device; left as it is.

    Returns:
        Values and method. Relative error of s_i about 2e-17 (s_1/s_i)^2 by the Gram matrix, about
        2e-16 s_1/s_i by the SVD.
    """
    wide, scale = widened(matrix), None
    if matrix.dtype == torch.float64:
        # Only then can a square leave float64's range.
        wide, scale = scaled(wide)
    batch = wide.shape[:-2]
    wide = wide.reshape(-1, *wide.shape[-2:])
    products = gram(wide)
    # Every entry's square stands in a sum on the diagonal.
    finite = torch.isfinite(products.diagonal(dim1=-2, dim2=-1).sum(-1))
    if not bool(finite.all()):
        products[~finite] = 0.0
    values = _roots(products)
    # Written so that a NaN from a failed eigenvalue routine also asks for the SVD.
    resolved = values[:, -1] >= GRAM_RESOLUTION * values[:, 0]
    by_svd = ~resolved & finite
    if bool(by_svd.any()):
        values[by_svd] = _by_svd(wide[by_svd])
    values = torch.where(finite[:, None], values, torch.full_like(values, torch.nan))
    values = values.reshape(*batch, values.shape[-1])
    if scale is not None:
        values = values * scale[..., None]
    return SingularValues(values, by_svd.reshape(batch))


def _roots(products: Tensor) -> Tensor:
    try:
        eigenvalues: Tensor = torch.linalg.eigvalsh(products)
    except LinAlgError:
        _logger.debug("eigvalsh did not converge; an SVD decides")
        return products.new_full(products.shape[:-1], torch.nan)
    values: Tensor = eigenvalues.clamp_min(0.0).sqrt().flip(-1)
    return values


def _by_svd(wide: Tensor) -> Tensor:
    # numpy's LAPACK is about ten times faster than torch's for values alone on a CPU.
    if wide.device.type == "cpu":
        try:
            return torch.from_numpy(np.linalg.svd(wide.numpy(), compute_uv=False))
        except np.linalg.LinAlgError:
            _logger.debug("svd did not converge")
    else:
        try:
            values: Tensor = torch.linalg.svdvals(wide)
            return values
        except LinAlgError:
            _logger.debug("svd did not converge")
    return wide.new_full((wide.shape[0], min(wide.shape[-2:])), torch.nan)
