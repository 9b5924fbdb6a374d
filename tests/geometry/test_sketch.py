from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry.sketch import SKETCH_SIZE, blind_sketch, sketch, sketch_cosines

SHAPES = [(512, 128), (96, 97), (7, 9000), (64, 4093)]


def _estimated(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(sketch_cosines([sketch(first)], [sketch(second)]))


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["noise", "related", "rank one", "one column"])
def test_standard_error_is_as_stated(
    shape: tuple[int, int], kind: str, rng: np.random.Generator
) -> None:
    def normal(*size: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(size))

    errors = []
    for _ in range(24):
        if kind == "rank one":
            a, b = (normal(shape[0], 1) @ normal(1, shape[1]) for _ in range(2))
        elif kind == "one column":
            a, b = torch.zeros(2, *shape, dtype=torch.float64)
            a[:, 3], b[:, 3] = normal(shape[0]), normal(shape[0])
        else:
            a, b = normal(*shape), normal(*shape)
            b = a + b if kind == "related" else b
        c = _cosine(a, b)
        errors.append((_estimated(a, b) - c) * 64 / (1 - c * c))
    # 24 draws: their root mean square is within 1.6 of a true standard error of 1.
    assert np.sqrt(np.mean(np.square(errors))) < 1.6


def test_the_sketch_is_linear_and_keeps_length(rng: np.random.Generator) -> None:
    a, b = (torch.from_numpy(rng.standard_normal((40, 300))) for _ in range(2))
    torch.testing.assert_close(sketch(2 * a - b), 2 * sketch(a) - sketch(b))
    noise = torch.from_numpy(rng.standard_normal((90, 90)))
    assert float(sketch(noise).norm()) == pytest.approx(float(noise.norm()), rel=0.1)


def test_small_matrices_are_kept_exactly() -> None:
    a, b = torch.randn(2, 30, 40)
    assert _estimated(a, b) == pytest.approx(_cosine(a, b), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_deterministic_and_outside_every_generator(dtype: torch.dtype) -> None:
    matrix = torch.randn(50, 200).to(dtype)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the legacy global generator is the one to leave alone
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # as above
    first, second = sketch(matrix), sketch(matrix.mT.contiguous().mT)
    assert first.shape == (SKETCH_SIZE,)
    assert torch.equal(first, second)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002  # as above


def test_the_signs_are_the_same_on_every_machine() -> None:
    # A sketch taken in one process may meet one taken by another version: the signs are a format.
    found = sketch(torch.ones(1, 32)).tolist()[:32]
    assert (
        "".join("+" if value > 0 else "-" for value in found) == "-+-+-+-+-+-+-----+++--++--++++--"
    )


@pytest.mark.parametrize("shape", [(512, 128), (96, 97), (7, 90), (32, 4093), (129, 509)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pytorch_and_numpy_make_the_same_sketch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape).to(dtype)
    torch.testing.assert_close(blind_sketch(matrix), sketch(matrix), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(256, 256), (384, 256), (512, 512), (1024, 1024)])
def test_entries_much_alike_cost_little(shape: tuple[int, int], rng: np.random.Generator) -> None:
    # Signs that agree between chunks or blocks add up here, and here alone.
    errors = []
    for _ in range(12):
        a, b = (torch.from_numpy(1 + 0.3 * rng.standard_normal(shape)).float() for _ in range(2))
        c = _cosine(a, b)
        errors.append((_estimated(a, b) - c) * 64 / (1 - c * c))
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 * 1.3


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_is_safe(scale: float) -> None:
    a, b = torch.randn(2, 90, 90)
    plain = _estimated(a, b)
    assert _estimated(a * scale, b) == pytest.approx(plain, abs=1e-6)


def test_nothing_to_compare_with() -> None:
    assert np.isnan(_estimated(torch.zeros(3, 3), torch.eye(3)))
    assert np.isnan(_estimated(torch.eye(3), torch.full((3, 3), torch.nan)))


@pytest.mark.parametrize("bad", [None, 0.0, torch.nan])
def test_pairs_do_not_mix(bad: float | None) -> None:
    matrices = torch.randn(3, 2, 60, 80) * torch.tensor([1.0, 30.0, 0.1])[:, None, None, None]
    first, second = ([sketch(pair[i]) for pair in matrices] for i in (0, 1))
    if bad is not None:
        first[1].fill_(bad)
    found = sketch_cosines(first, second).tolist()
    for i in (0, 2) if bad is not None else (0, 1, 2):
        assert found[i] == pytest.approx(_estimated(*matrices[i]), abs=1e-6)
    assert np.isnan(found[1]) == (bad is not None)
