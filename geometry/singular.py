"""Singular values of batched matrices: from a Gram matrix, or an SVD where that cannot see.

Three methods, by what is known of the matrix. A float64 Gram matrix loses half of float64's digits,
and tells the singular values down to 1.5e-7 of the largest. What lies below is told by a float64
SVD, where the matrix itself has it: one that was rounded to float32 has not. A float32 Gram matrix
halves the cost of the product, and is right to 2e-5 where all singular values are of a size.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.kernels import TORCH, Kernels, LinAlgError
from optgeom.geometry.norms import LARGEST_SAFE_SUM, SMALLEST_SAFE_SUM
from optgeom.geometry.scaling import scaled, widened

GRAM_RESOLUTION = 1.5e-7
"""Below this share of s_1 the Gram matrix tells nothing: squaring has used up float64's digits."""

SVD_RESOLUTION = 10 * float(np.finfo(np.float64).eps)
"""Below this share of s_1 a float64 SVD tells nothing, and from a side of 100 on in proportion to
the side: LAPACK's second singular value of a rank-one matrix of equal entries is 181 eps at 3000,
and 3500 eps at 50257."""

FLOAT32_EPS = float(np.finfo(np.float32).eps)
"""A matrix that was rounded so has nothing below this share of s_1 that an SVD could tell."""

FLOAT32_PRODUCT_ERROR = 2e-6
"""Spectral norm of what float32 products get wrong, over s_1^2. The worst found is 1.2e-6, for
64 x 50257 entries of one size; a normal 768 x 3072 matrix has 2e-7, an orthogonal one 5e-7."""

FLOAT32_GRAM_ERROR = 2e-5
"""Relative error that every singular value from a float32 Gram matrix keeps below."""

FLOAT32_GRAM_CONDITION = math.sqrt(2.0 * FLOAT32_GRAM_ERROR / FLOAT32_PRODUCT_ERROR)
"""Up to this condition number float32 products do that: Weyl's bound on the eigenvalues, halved by
the root. 4.47."""

FLOAT32_SIDE, FLOAT32_ASPECT = 256, 2
"""Shapes from which on the product is a large part of the cost: a shorter side, and how many times
the longer is as long. A square matrix would gain a tenth (docs/benchmarks.md)."""


_logger = logging.getLogger(__name__)


class SingularValues(NamedTuple):
    """Spectra of a batch.

    Attributes:
        values: (..., r) float64, descending, r = min(m, n), on the matrices' device; NaN for a
            matrix that holds NaN or Inf, or whose decomposition did not converge.
        by_svd: (...,) bool: whether an SVD was needed.
        in_float32: Whether float32 products were enough, for the batch as a whole.
        gram: (..., r, r) float64, the Gram matrix of the short side, for who needs it next; None
            where it was not made in float64, or of scaled matrices.
    """

    values: Tensor
    by_svd: Tensor
    in_float32: bool = False
    gram: Tensor | None = None


def resolution(method: str, side: int) -> float:
    """Below which share of s_1 a method tells nothing.

    Args:
        method: As spectrum_method: gram, gram32 or svd.
        side: The longer one of the matrix.
    """
    if method == "svd":
        return SVD_RESOLUTION * max(1.0, side / 100)
    # float32 products are kept where every value lies far above what they get wrong, so that they
    # set no floor of their own
    return GRAM_RESOLUTION


@torch.no_grad()
def singular_values(
    matrix: Tensor,
    *,
    eps: float = 0.0,
    floor: float = 0.0,
    expected_condition: float | None = None,
    kernels: Kernels = TORCH,
) -> SingularValues:
    """Singular values, by the eigenvalues of the Gram matrix of the short side.

    Where the smallest falls below 1.5e-7 of the largest, and the matrix is known that well, it
    alone is decomposed again by a float64 SVD. Cost: m n r multiplications and an r x r symmetric
    eigenproblem; an SVD is three to six times that.

    Args:
        matrix: (..., m, n), any float dtype and device; left as it is.
        eps: Share of s_1 below which the matrix is rounding: of float32's eps on, no SVD is made.
        floor: The same in units of the singular values.
        expected_condition: Condition number that a matrix like it had, such as the same layer's a
            step before: where it is below 4, float32 products of a large matrix that is no square
            are tried first, if the kernels have them, and kept if every singular value is right to
            2e-5.
        kernels: What to compute with.

    Returns:
        Values and method. Relative error of s_i at most 2e-15 (s_1/s_i)^2 by the Gram matrix (a
        hundredth of that is typical), 5e-16 s_1/s_i by the SVD, 2e-5 in float32.
    """
    if expected_condition is not None and _is_worth_float32(matrix, expected_condition, kernels):
        values = _roots(kernels.gram(matrix).to(torch.float64), kernels)
        if _is_right_in_float32(values):
            nothing = torch.zeros(values.shape[:-1], dtype=torch.bool)
            return SingularValues(values, nothing, in_float32=True)
    wide, scale = widened(matrix), None
    if matrix.dtype == torch.float64:
        # Only then can a square leave float64's range.
        wide, scale = scaled(wide)
    products = kernels.gram(wide)
    # Every entry's square stands in a sum on the diagonal.
    finite = torch.isfinite(products.diagonal(dim1=-2, dim2=-1).sum(-1))
    if not bool(finite.all()):
        products[~finite] = 0.0
    values = _roots(products, kernels)
    largest = values[..., 0]
    # Written so that a NaN from a failed eigenvalue routine also asks for the SVD.
    resolved = values[..., -1] >= GRAM_RESOLUTION * largest
    least = floor / scale if scale is not None else torch.full_like(largest, floor)
    known = torch.maximum(eps * largest, least) < FLOAT32_EPS * largest
    by_svd = ~resolved & finite & (known | torch.isnan(largest))
    if bool(by_svd.any()):
        values[by_svd] = _by_svd(wide[by_svd])
    if not bool(finite.all()):
        values[~finite] = torch.nan
    if scale is not None:
        values = values * scale[..., None]
    return SingularValues(values, by_svd, gram=products if scale is None else None)


def _is_worth_float32(matrix: Tensor, expected: float, kernels: Kernels) -> bool:
    short, long = sorted(matrix.shape[-2:])
    return (
        kernels.float32_products
        and short >= FLOAT32_SIDE
        and long >= FLOAT32_ASPECT * short
        and matrix.dtype == torch.float32
        and matrix.device.type == "cpu"
        and expected < 0.9 * FLOAT32_GRAM_CONDITION
    )


def _is_right_in_float32(values: Tensor) -> bool:
    squares = values[..., 0].square()
    in_range = (squares > SMALLEST_SAFE_SUM) & (squares < LARGEST_SAFE_SUM)
    # a NaN fails every comparison
    alike = values[..., 0] <= FLOAT32_GRAM_CONDITION * values[..., -1]
    return bool((in_range & alike).all())


def _roots(products: Tensor, kernels: Kernels) -> Tensor:
    values: Tensor = kernels.eigenvalues(products).clamp_min(0.0).sqrt().flip(-1)
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
