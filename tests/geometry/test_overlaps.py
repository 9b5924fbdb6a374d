from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry.overlaps import length, overlap, product


@pytest.mark.parametrize(
    ("first", "second", "bound"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-6),
        (torch.float32, torch.bfloat16, 1e-6),
        (torch.float16, torch.float64, 1e-14),
    ],
)
def test_against_numpy(
    first: torch.dtype, second: torch.dtype, bound: float, rng: np.random.Generator
) -> None:
    a = torch.from_numpy(rng.standard_normal((60, 70))).to(first)
    b = a.to(second) + torch.from_numpy(rng.standard_normal((60, 70))).to(second)
    x, y = a.double().numpy(), b.double().numpy()
    exact = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    found = overlap(a, b)
    assert float(found.cosine) == pytest.approx(exact, abs=bound)
    assert float(found.first_norm) == pytest.approx(np.linalg.norm(x), rel=4e-7)
    assert float(found.second_norm) == pytest.approx(np.linalg.norm(y), rel=4e-7)


@pytest.mark.parametrize("left", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("right", [1e-30, 1.0, 1e30])
def test_scales_are_safe(left: float, right: float, rng: np.random.Generator) -> None:
    a = torch.from_numpy((rng.standard_normal((9, 8)) * left).astype(np.float32))
    b = torch.from_numpy((rng.standard_normal((9, 8)) * right).astype(np.float32))
    x, y = a.double().numpy() / left, b.double().numpy() / right
    exact = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    assert float(overlap(a, b).cosine) == pytest.approx(exact, abs=1e-6)


def test_zero_and_nan_have_no_angle() -> None:
    for bad in (torch.zeros(2, 2), torch.full((2, 2), torch.nan)):
        assert bool(overlap(torch.eye(2), bad).cosine.isnan())


def test_batches(rng: np.random.Generator) -> None:
    a, b = torch.from_numpy(rng.standard_normal((2, 3, 4, 5)))
    found = overlap(a, b).cosine
    exact = [float(overlap(x, y).cosine) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-13)


@pytest.mark.parametrize("shape", [(1024, 256), (3, 5), (7, 333), (1500, 700)])
@pytest.mark.parametrize("kind", ["noise", "equal", "signs"])
def test_product_against_numpy(shape: tuple[int, int], kind: str, rng: np.random.Generator) -> None:
    a, b = (torch.from_numpy(x).float() for x in rng.standard_normal((2, *shape)))
    if kind == "equal":
        a, b = torch.full(shape, 0.1), torch.full(shape, 0.3)
    elif kind == "signs":
        a, b = a.sign() * 0.2, b.sign() * 0.7
    x, y = a.double().numpy(), b.double().numpy()
    bound = 3e-7 * np.linalg.norm(x) * np.linalg.norm(y)
    assert product(a, b) == pytest.approx((x * y).sum(), abs=bound)
    assert product(a, a) == pytest.approx((x * x).sum(), rel=3e-7)
    assert float(overlap(a, b).cosine) == pytest.approx(
        (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6
    )


@pytest.mark.parametrize("scale", [1e-42, 1e-25, 1e-3, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_length_at_any_scale(scale: float, dtype: torch.dtype, rng: np.random.Generator) -> None:
    matrix = torch.from_numpy(rng.standard_normal((90, 4000)) * scale).to(dtype)
    exact = np.linalg.norm(matrix.double().numpy())
    bound = 1e-14 if dtype == torch.float64 else 4e-7
    assert length(matrix) == pytest.approx(exact, rel=bound)
    assert length(matrix.mT) == pytest.approx(exact, rel=bound)


def test_length_looks_at_no_value_on_a_device() -> None:
    found = length(torch.empty(5, 7, device="meta"))
    assert isinstance(found, torch.Tensor)
    assert found.shape == ()
