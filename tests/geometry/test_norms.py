from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry.norms import blind_line_norms, line_norms, row_norms

DTYPES = {
    torch.float64: 1e-14,
    torch.float32: 4e-7,
    torch.bfloat16: 4e-7,
    torch.float16: 4e-7,
}


def _assert_close(found: torch.Tensor, exact: np.ndarray, bound: float) -> None:
    expected = [*np.linalg.norm(exact, axis=1), *np.linalg.norm(exact, axis=0)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=bound)


def _assert_rows_close(matrix: torch.Tensor, bound: float) -> None:
    expected = np.linalg.norm(matrix.double().numpy(), axis=1)
    np.testing.assert_allclose(row_norms(matrix).numpy(), expected, rtol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 48), (1, 9), (9, 1), (3, 5000), (5000, 3), (40, 1024)])
def test_against_numpy(
    dtype: torch.dtype, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    rows = np.exp(rng.standard_normal((shape[0], 1)))
    matrix = torch.from_numpy(rng.standard_normal(shape) * rows).to(dtype)
    exact = matrix.double().numpy()
    _assert_close(line_norms(matrix), exact, DTYPES[dtype])
    _assert_close(blind_line_norms(matrix), exact, DTYPES[dtype])
    _assert_rows_close(matrix, DTYPES[dtype])
    _assert_rows_close(matrix.mT, DTYPES[dtype])


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-15, 1e15, 1e30])
def test_float32_scale_is_safe(scale: float, rng: np.random.Generator) -> None:
    matrix = (rng.standard_normal((20, 30)) * scale).astype(np.float32)
    exact = matrix.astype(np.float64)
    _assert_close(line_norms(torch.from_numpy(matrix)), exact, 4e-7)
    _assert_close(blind_line_norms(torch.from_numpy(matrix)), exact, 4e-7)
    _assert_rows_close(torch.from_numpy(matrix), 4e-7)


def test_a_tiny_row_among_large_ones_is_not_lost() -> None:
    matrix = torch.ones(4, 8)
    matrix[2] = 1e-25
    for kernel in (line_norms, row_norms):
        np.testing.assert_allclose(float(kernel(matrix)[2]), 1e-25 * np.sqrt(8), rtol=1e-6)


def test_zero_rows_stay_zero() -> None:
    matrix = torch.ones(4, 8)
    matrix[1] = 0.0
    assert line_norms(matrix).tolist()[1] == 0.0
    assert line_norms(torch.zeros(3, 2)).tolist() == [0.0] * 5
    assert row_norms(matrix).tolist()[1] == 0.0


def test_rows_of_an_embedding_are_zero_tiny_or_huge(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((3000, 768)).astype(np.float32)
    matrix[rng.permutation(3000)[:2600]] = 0.0
    matrix[::7] *= np.float32(1e-25)
    matrix[::11] *= np.float32(1e18)
    matrix[2990, :] = 0.0
    matrix[2990, 767] = 1e-42
    _assert_rows_close(torch.from_numpy(matrix), 4e-7)
    _assert_close(line_norms(torch.from_numpy(matrix)), matrix.astype(np.float64), 4e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    matrix = torch.ones(3, 4)
    matrix[1, 2] = bad
    found = line_norms(matrix).numpy()
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [1, 3 + 2]
    assert np.flatnonzero(~np.isfinite(row_norms(matrix).numpy())).tolist() == [1]


def test_strides(rng: np.random.Generator) -> None:
    matrix = torch.from_numpy(rng.standard_normal((50, 40)))
    for view in (matrix.mT, matrix[::2], matrix[:, 3:9], matrix[:1].expand(7, -1)):
        _assert_close(line_norms(view), view.numpy(), 1e-14)
        _assert_rows_close(view, 1e-14)
        _assert_rows_close(view.float(), 4e-7)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_float64_scale_is_safe(scale: float, rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((20, 30))
    expected = line_norms(torch.from_numpy(matrix)).numpy() * scale
    for kernel in (line_norms, blind_line_norms):
        found = kernel(torch.from_numpy(matrix * scale)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("value", [0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(1024, 256), (3, 100_000), (100_000, 3), (9, 512 * 70)])
def test_equal_entries_do_not_add_up_their_rounding(value: float, shape: tuple[int, int]) -> None:
    # What sign-like updates look like: every term of a sum rounds the same way.
    matrix = torch.full(shape, value)
    _assert_close(line_norms(matrix), matrix.double().numpy(), 4e-7)
    _assert_rows_close(matrix, 4e-7)


@pytest.mark.parametrize("length", [8, 100, 256, 500, 512, 700, 1024, 3000])
def test_rows_of_many_constants(length: int, rng: np.random.Generator) -> None:
    values = torch.from_numpy(rng.uniform(0.1, 1.0, (400, 1))).float()
    matrix = values * torch.ones(1, length)
    _assert_close(line_norms(matrix), matrix.double().numpy(), 4e-7)
    _assert_rows_close(matrix, 4e-7)
    _assert_rows_close(matrix.mT, 4e-7)


def test_no_value_is_looked_at_on_a_device() -> None:
    # A meta tensor has no values: asking for one raises.
    assert line_norms(torch.empty(5, 7, device="meta")).shape == (12,)
    assert row_norms(torch.empty(5, 7, device="meta")).shape == (5,)
