"""The iteration against its polynomial through an SVD in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optgeom.optim.newton_schulz import COEFFICIENT_SETS, orthogonalize, polynomial

SHAPES = [(24, 60), (60, 24), (1, 9), (9, 1), (3, 24, 60), (2, 3, 12, 7)]


def through_svd(matrix: Tensor, name: str) -> Tensor:
    """U f(S) V^T, f applied to the normalized singular values step by step."""
    table = COEFFICIENT_SETS[name]
    rows = table.rows if len(table.rows) > 1 else table.rows * table.steps
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    frobenius = s.square().sum(-1, keepdim=True).sqrt()
    s = s / (frobenius * (1 + table.safety) + table.eps)
    for a, b, c in rows:
        s = a * s + b * s**3 + c * s**5
    return (u * s.unsqueeze(-2)) @ vh


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_polynomial_of_the_singular_values(
    name: str, shape: tuple[int, ...], gradients
) -> None:
    [matrix] = gradients(shape, steps=1)
    expected = through_svd(matrix, name)
    assert relative(orthogonalize(matrix, coefficients=name, dtype="float32"), expected) < 2e-5
    assert relative(orthogonalize(matrix, coefficients=name, dtype="bfloat16"), expected) < 6e-2


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 20), cols=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_turning_the_matrix_turns_the_result(rows: int, cols: int, seed: int) -> None:
    matrix = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    there = orthogonalize(matrix, dtype="float32")
    back = orthogonalize(matrix.mT, dtype="float32").mT
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("jordan", 0.68, 1.21), ("polar_express", 0.85, 1.15), ("simple", 0.99, 1.01)],
)
def test_singular_values_land_in_the_documented_band(
    dtype: str, name: str, low: float, high: float, gradients
) -> None:
    [matrix] = gradients((64, 256), steps=1)
    result = orthogonalize(matrix, coefficients=name, dtype=dtype)
    values = torch.linalg.svdvals(result.double())
    slack = 0.004 if dtype == "bfloat16" else 0.0
    assert low - slack <= values.min()
    assert values.max() <= high + slack


def test_jordan_band_over_every_resolved_singular_value() -> None:
    values = polynomial(torch.logspace(-2.4, 0, 10_000, dtype=torch.float64))
    assert values.min() >= 0.68
    assert values.max() <= 1.21


def test_a_batch_is_its_slices(gradients) -> None:
    [stack] = gradients((4, 10, 6), steps=1)
    slices = torch.stack([orthogonalize(matrix, dtype="float32") for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack, dtype="float32"), slices, rtol=1e-5, atol=1e-6)


def test_strides_do_not_matter_and_the_input_stays(gradients) -> None:
    [wide] = gradients((6, 20), steps=1)
    strided = torch.empty(12, 20)[::2].copy_(wide)
    before = strided.clone()
    assert torch.equal(orthogonalize(strided), orthogonalize(wide))
    assert torch.equal(strided, before)


@pytest.mark.parametrize("name", COEFFICIENT_SETS)
def test_zero_stays_zero(name: str) -> None:
    assert torch.equal(
        orthogonalize(torch.zeros(5, 3), coefficients=name), torch.zeros(5, 3, dtype=torch.bfloat16)
    )


def test_size_does_not_matter_above_eps(gradients) -> None:
    [matrix] = gradients((8, 12), steps=1)
    large = orthogonalize(matrix * 1e6, dtype="float32")
    torch.testing.assert_close(large, orthogonalize(matrix, dtype="float32"), rtol=1e-4, atol=1e-5)


def test_a_row_becomes_a_unit_row_times_the_polynomial_at_one(gradients) -> None:
    [row] = gradients((1, 30), steps=1)
    result = orthogonalize(row, coefficients="simple", dtype="float32")
    torch.testing.assert_close(result, row / row.norm(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", COEFFICIENT_SETS)
def test_every_set_says_where_it_comes_from(name: str) -> None:
    source = COEFFICIENT_SETS[name].source
    assert "arXiv" in source or "github.com" in source or "Muon" in source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficients": "jordon"}, "coefficients must be one of jordan, polar_express, simple"),
        ({"dtype": "float16"}, "ns_dtype must be one of float32, bfloat16"),
        ({"steps": 0}, "ns_steps must be at least 1; got 0"),
        ({"coefficients": "polar_express", "steps": 6}, "schedule of 5 steps; got ns_steps=6"),
    ],
)
def test_wrong_settings_raise(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orthogonalize(torch.eye(2), **arguments)


def test_a_vector_raises() -> None:
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        orthogonalize(torch.ones(3))


@pytest.mark.parametrize("shape", [(8, 12), (520, 530)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_matrix_comes_out_the_same_in_any_company(shape: tuple[int, int], dtype: str) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(5))
    together = orthogonalize(stack, dtype=dtype, steps=2)
    for i in range(3):
        assert torch.equal(orthogonalize(stack[i : i + 1], dtype=dtype, steps=2)[0], together[i])
    assert orthogonalize(stack[:0], dtype=dtype).shape == (0, *shape)
    assert orthogonalize(torch.zeros(2, 3, 4, 0), dtype=dtype).shape == (2, 3, 4, 0)
