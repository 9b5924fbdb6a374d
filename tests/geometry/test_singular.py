from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from optgeom.geometry.accuracy import singular_value_error
from optgeom.geometry.singular import GRAM_RESOLUTION, singular_values

SHAPES = [(48, 48), (96, 40), (40, 96)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14])
def test_float64_against_the_known_spectrum(
    shape: tuple[int, int], kappa: float, with_spectrum: Callable[..., np.ndarray]
) -> None:
    known = np.geomspace(3.0, 3.0 / kappa, min(shape))
    matrix = with_spectrum(shape, known)
    found = singular_values(torch.from_numpy(matrix))
    by_gram = 1.0 / kappa >= GRAM_RESOLUTION
    bound = 1e-14 + kappa * singular_value_error(kappa, "gram" if by_gram else "svd")
    assert bool(found.by_svd) is not by_gram
    np.testing.assert_allclose(found.values.numpy(), scipy.linalg.svdvals(matrix), rtol=bound)
    np.testing.assert_allclose(found.values.numpy(), known, rtol=bound)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4, 1e6, 1e7])
def test_float32_against_lapack_in_float64(
    shape: tuple[int, int], kappa: float, with_spectrum: Callable[..., np.ndarray]
) -> None:
    known = np.geomspace(1.0, 1.0 / kappa, min(shape))
    matrix = with_spectrum(shape, known).astype(np.float32)
    found = singular_values(torch.from_numpy(matrix)).values.numpy()
    exact = scipy.linalg.svdvals(matrix.astype(np.float64))
    # Of the stored entries exactly; of the known spectrum as far as float32 could store it.
    bound = 1e-14 + kappa * singular_value_error(kappa, "gram")
    np.testing.assert_allclose(found, exact, rtol=bound)
    np.testing.assert_allclose(found, known, rtol=1e-6 + 1e-8 * kappa)


def test_against_arbitrary_precision() -> None:
    # Hilbert's matrix as float64 stores it: condition number 5e9.
    matrix = 1.0 / (np.arange(8)[:, None] + np.arange(7)[None, :] + 1.0)
    with mpmath.workdps(60):
        exact = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
        known = np.sort([float(value) for value in exact])[::-1]
    found = singular_values(torch.from_numpy(matrix))
    assert known[0] / known[-1] > 1e8
    assert bool(found.by_svd)
    np.testing.assert_allclose(
        found.values.numpy(), known, rtol=singular_value_error(1.0, "svd") * known[0] / known[-1]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_deficient_goes_to_the_svd(
    shape: tuple[int, int], with_spectrum: Callable[..., np.ndarray]
) -> None:
    matrix = with_spectrum(shape, np.array([5.0, 3.0, 3.0, 1.0]))
    found = singular_values(torch.from_numpy(matrix))
    assert bool(found.by_svd)
    np.testing.assert_allclose(found.values[:4].numpy(), [5, 3, 3, 1], rtol=1e-13)
    assert float(found.values[4:].max()) < 5 * 2.2e-15


def test_a_batch_is_its_members(with_spectrum: Callable[..., np.ndarray]) -> None:
    good = with_spectrum((6, 4), np.array([4.0, 3.0, 2.0, 1.0]))
    poor = with_spectrum((6, 4), np.array([1.0, 1e-3, 1e-6, 1e-10]))
    nan = good.copy()
    nan[2, 1] = np.nan
    zero = np.zeros((6, 4))
    batch = torch.from_numpy(np.stack([good, poor, nan, zero]).reshape(2, 2, 6, 4))
    found = singular_values(batch)
    assert found.values.shape == (2, 2, 4)
    assert found.by_svd.tolist() == [[False, True], [False, False]]
    np.testing.assert_allclose(found.values[0, 0].numpy(), [4, 3, 2, 1], rtol=1e-13)
    np.testing.assert_allclose(found.values[0, 1].numpy(), [1, 1e-3, 1e-6, 1e-10], rtol=1e-5)
    assert bool(found.values[1, 0].isnan().all())
    assert found.values[1, 1].tolist() == [0.0] * 4


def test_infinity_is_not_a_spectrum() -> None:
    matrix = torch.eye(3)
    matrix[0, 1] = torch.inf
    assert bool(singular_values(matrix).values.isnan().all())
