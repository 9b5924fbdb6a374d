from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry.norms import matrix_norms

DTYPES = {
    torch.float64: 1e-14,
    torch.float32: 4e-7,
    torch.bfloat16: 4e-7,
    torch.float16: 4e-7,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 48), (1, 9), (9, 1), (3, 5000), (5000, 3)])
def test_against_numpy(
    dtype: torch.dtype, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    rows = np.exp(rng.standard_normal((shape[0], 1)))
    matrix = torch.from_numpy(rng.standard_normal(shape) * rows).to(dtype)
    exact = matrix.double().numpy()
    found = matrix_norms(matrix)
    bound = DTYPES[dtype]
    np.testing.assert_allclose(found.rows.numpy(), np.linalg.norm(exact, axis=1), rtol=bound)
    np.testing.assert_allclose(found.columns.numpy(), np.linalg.norm(exact, axis=0), rtol=bound)
    np.testing.assert_allclose(float(found.frobenius), np.linalg.norm(exact), rtol=bound)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-15, 1e15, 1e30])
def test_float32_scale_is_safe(scale: float, rng: np.random.Generator) -> None:
    matrix = (rng.standard_normal((20, 30)) * scale).astype(np.float32)
    exact = matrix.astype(np.float64)
    found = matrix_norms(torch.from_numpy(matrix))
    np.testing.assert_allclose(found.rows.numpy(), np.linalg.norm(exact, axis=1), rtol=4e-7)
    np.testing.assert_allclose(found.columns.numpy(), np.linalg.norm(exact, axis=0), rtol=4e-7)
    np.testing.assert_allclose(float(found.frobenius), np.linalg.norm(exact), rtol=4e-7)


def test_a_tiny_row_among_large_ones_is_not_lost() -> None:
    matrix = torch.ones(4, 8)
    matrix[2] = 1e-25
    np.testing.assert_allclose(float(matrix_norms(matrix).rows[2]), 1e-25 * np.sqrt(8), rtol=1e-6)


def test_zero_rows_stay_zero() -> None:
    matrix = torch.ones(4, 8)
    matrix[1] = 0.0
    assert matrix_norms(matrix).rows.tolist()[1] == 0.0
    assert matrix_norms(torch.zeros(3, 2)).frobenius.item() == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    matrix = torch.ones(3, 4)
    matrix[1, 2] = bad
    assert not np.isfinite(float(matrix_norms(matrix).frobenius))


def test_batch_and_strides(rng: np.random.Generator) -> None:
    batch = torch.from_numpy(rng.standard_normal((2, 3, 5, 4)))
    found = matrix_norms(batch.mT)
    exact = np.linalg.norm(batch.numpy(), axis=-2)
    np.testing.assert_allclose(found.rows.numpy(), exact, rtol=1e-14)
    assert found.columns.shape == (2, 3, 5)
    assert found.frobenius.shape == (2, 3)
