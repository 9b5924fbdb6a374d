"""The decompositions that spectra and leverage are made of: torch's, or numpy's LAPACK.

torch's run wherever the matrix is, and on a CPU keep to the calling thread's share of cores; a
training process uses no other. numpy's are for an analysis that has the processor to itself and
limits BLAS to one thread per matrix (`optgeom.geometry.threads`): its product of a matrix with its
own transpose takes half the multiplications, and its symmetric eigenvalues took two thirds of the
time of MKL's on the processor of docs/benchmarks.md. scipy's would hold the interpreter's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# torch.linalg does not list it among its public names, though torch documents it.
LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # as above

PIECE = 1024
"""How many terms of a product torch adds up at a time. Over a whole long side it accumulates 30
times numpy's error at 50257 (5e-14 of s_1^2), and a matrix of rank one has a second direction."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """Functions of (..., m, n) or (..., r, r) tensors; none changes its argument.

    Attributes:
        gram: (..., m, n) to A A^T for m <= n, else A^T A: (..., r, r), in A's dtype.
        eigenvalues: Of symmetric matrices, ascending, (..., r); NaN where they do not converge.
        eigenvectors: Ascending eigenvalues (..., r) and vectors in columns (..., r, r).
        cholesky: Lower factor, or None where one of the matrices is not positive definite.
        float32_products: Whether a Gram matrix of float32 rounds as float32 does: not so on
            devices and under settings where products are rounded to fewer digits.
    """

    gram: Callable[[Tensor], Tensor]
    eigenvalues: Callable[[Tensor], Tensor]
    eigenvectors: Callable[[Tensor], tuple[Tensor, Tensor]]
    cholesky: Callable[[Tensor], Tensor | None]
    float32_products: bool


def _gram(matrix: Tensor) -> Tensor:
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    pieces = torch.split(wide, PIECE, dim=-1)
    products: Tensor = pieces[0] @ pieces[0].mT
    for piece in pieces[1:]:
        products += piece @ piece.mT
    return products


def _eigenvalues(products: Tensor) -> Tensor:
    try:
        values: Tensor = torch.linalg.eigvalsh(products)
    except LinAlgError:
        return _not_converged(products)
    return values


def _eigenvectors(products: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(products)
    return values, vectors


def _cholesky(products: Tensor) -> Tensor | None:
    factor, failed = torch.linalg.cholesky_ex(products)
    return None if bool(failed.any()) else factor


def _lapack_gram(matrix: Tensor) -> Tensor:
    # numpy sees that both sides are one array, and multiplies one triangle alone
    wide = matrix.numpy() if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT.numpy()
    return torch.from_numpy(wide @ wide.swapaxes(-1, -2))


def _lapack_eigenvalues(products: Tensor) -> Tensor:
    try:
        return torch.from_numpy(np.linalg.eigvalsh(products.numpy()))
    except np.linalg.LinAlgError:
        return _not_converged(products)


def _lapack_eigenvectors(products: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = np.linalg.eigh(products.numpy())
    except np.linalg.LinAlgError as error:
        raise LinAlgError(str(error)) from error
    return torch.from_numpy(values), torch.from_numpy(vectors)


def _lapack_cholesky(products: Tensor) -> Tensor | None:
    try:
        return torch.from_numpy(np.linalg.cholesky(products.numpy()))
    except np.linalg.LinAlgError:
        return None


def _not_converged(products: Tensor) -> Tensor:
    _logger.debug("eigvalsh did not converge; an SVD decides")
    return products.new_full(products.shape[:-1], torch.nan)


TORCH = Kernels(_gram, _eigenvalues, _eigenvectors, _cholesky, float32_products=False)
LAPACK = Kernels(
    _lapack_gram,
    _lapack_eigenvalues,
    _lapack_eigenvectors,
    _lapack_cholesky,
    float32_products=True,
)
