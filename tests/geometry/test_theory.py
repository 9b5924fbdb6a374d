"""What theory says of orthogonalization and of NorMuon, against what is measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

from optgeom.geometry import METRICS
from optgeom.geometry.measure import measure

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5


def _polar_factor(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, _, right = scipy.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] @ right[:rank]


def _newton_schulz(matrix: np.ndarray) -> np.ndarray:
    x = matrix / np.linalg.norm(matrix)
    for a, b, c in JORDAN:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(32, 32), (32, 80)])
def test_exact_polar_factor_moves_every_neuron_alike(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    matrix = rng.standard_normal(shape) * np.geomspace(1, 30, shape[0])[:, None]
    polar = _polar_factor(matrix, shape[0])
    found = measure(polar, stage="orthogonalized")
    assert found["neuron_norm_cv"] == pytest.approx(0.0, abs=1e-12)
    assert found["neuron_norm_max_min"] == pytest.approx(1.0)
    assert found["polar_error"] == pytest.approx(0.0, abs=1e-12)
    assert found["condition_number"] == pytest.approx(1.0)
    assert measure(matrix, stage="ns_input")["leverage_cv"] == pytest.approx(0.0, abs=1e-12)


def test_tall_polar_factor_keeps_the_leverage(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((96, 24)) * np.exp(rng.standard_normal((96, 1)))
    hat = matrix @ np.linalg.solve(matrix.T @ matrix, matrix.T)
    root = np.sqrt(np.diag(hat))
    before = measure(matrix, stage="ns_input")
    after = measure(_polar_factor(matrix, 24), stage="orthogonalized")
    assert before["leverage_cv"] == pytest.approx(root.std() / root.mean(), rel=1e-9)
    assert after["neuron_norm_cv"] == pytest.approx(before["leverage_cv"], rel=1e-9)
    assert after["leverage_cv"] == pytest.approx(before["leverage_cv"], rel=1e-9)
    assert before["leverage_rank"] == 24


def test_wide_but_rank_deficient_is_uneven_too(rng: np.random.Generator) -> None:
    # 256 x 1024 of rank 64, rows over a factor of 18: exact orthogonalization leaves CV 0.58.
    scales = np.geomspace(1.0, 18.0, 256)[:, None]
    matrix = scales * rng.standard_normal((256, 64)) @ rng.standard_normal((64, 1024))
    norms = np.linalg.norm(_polar_factor(matrix, 64), axis=1)
    found = measure(matrix, stage="ns_input")
    assert found["leverage_rank"] == 64
    assert found["leverage_cv"] == pytest.approx(norms.std() / norms.mean(), rel=1e-8)
    assert found["leverage_cv"] == pytest.approx(0.58, abs=0.02)


@pytest.mark.parametrize("shape", [(32, 80), (80, 32), (48, 48)])
def test_the_polar_factors_rms_follows_from_its_shape(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    # Moonlight, Lemma 1: sqrt(r / (m n)), which is 1 / sqrt(max(m, n)) at full rank.
    for rank in (min(shape), 7):
        matrix = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
        found = measure(_polar_factor(matrix, rank))
        assert found["update_rms"] == pytest.approx(np.sqrt(rank / (shape[0] * shape[1])))
        assert found["resolved_rank"] == rank


@pytest.mark.parametrize("shape", [(128, 32), (32, 128), (64, 64)])
def test_normuon_as_published_has_rms_one_fifth(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    matrix = rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)))
    orthogonal = _newton_schulz(matrix) if shape[0] <= shape[1] else _newton_schulz(matrix.T).T
    second = 0.05 * (orthogonal**2).mean(axis=1, keepdims=True)
    even = orthogonal / (np.sqrt(second) + 1e-8)
    update = 0.2 * np.sqrt(even.size) * even / np.linalg.norm(even)
    found = measure(update.astype(np.float32))
    assert found["update_rms"] == pytest.approx(0.2, rel=1e-6)
    assert found["neuron_norm_cv"] == pytest.approx(0.0, abs=1e-5)
    (band,) = METRICS["update_rms"].healthy
    assert band.low == band.high == 0.2


def test_row_normalization_undoes_orthogonality(rng: np.random.Generator) -> None:
    polar = _polar_factor(rng.standard_normal((96, 24)) * np.geomspace(1, 9, 96)[:, None], 24)
    even = polar / np.linalg.norm(polar, axis=1, keepdims=True)
    before, after = measure(polar, stage="orthogonalized"), measure(even)
    assert before["spectral_flatness_cv"] == pytest.approx(0.0, abs=1e-12)
    assert after["spectral_flatness_cv"] > 0.1
    assert after["neuron_norm_cv"] == pytest.approx(0.0, abs=1e-12)
    # From the evened update the leverage reads too low, so it is not given at all.
    assert after["leverage_cv"] is None
    square = measure(even, stage="ns_input")["leverage_cv"]
    assert square < 0.5 * before["neuron_norm_cv"]


def test_a_left_diagonal_keeps_the_row_space_and_moves_the_column_space(
    rng: np.random.Generator,
) -> None:
    for shape in ((96, 24), (24, 96)):
        polar = _polar_factor(
            rng.standard_normal(shape) * np.geomspace(1, 9, shape[0])[:, None], 24
        )
        even = np.diag(rng.uniform(0.3, 3.0, shape[0])) @ polar
        rows = scipy.linalg.subspace_angles(polar.T, even.T)
        columns = scipy.linalg.subspace_angles(polar, even)
        assert rows.max() < 1e-12
        before, after = (measure(matrix, stage="ns_input") for matrix in (polar, even))
        if shape[0] > shape[1]:
            assert columns.max() > 0.5
            assert abs(after["leverage_cv"] - before["leverage_cv"]) > 0.02
        else:
            assert columns.max() < 1e-12
            assert max(after["leverage_cv"], before["leverage_cv"]) < 1e-12


@pytest.mark.parametrize("shape", [(96, 24), (24, 96), (40, 40)])
def test_what_a_left_diagonal_leaves_of_orthogonality(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    # (D O)(D O)^T = D O O^T D: for m <= n that is D^2, else D times the leverage's projector.
    polar = _polar_factor(rng.standard_normal(shape), min(shape))
    scales = rng.uniform(0.3, 3.0, shape[0])
    squares = np.linalg.eigvalsh(scales[:, None] * (polar @ polar.T) * scales)[::-1][: min(shape)]
    found = measure(scales[:, None] * polar, stage="orthogonalized")
    assert found["sigma_max"] == pytest.approx(np.sqrt(squares[0]))
    assert found["sigma_min"] == pytest.approx(np.sqrt(squares[-1]))
    error = np.sqrt(np.mean((np.sqrt(squares) - 1.0) ** 2))
    assert found["polar_error"] == pytest.approx(error)
    if shape[0] <= shape[1]:
        assert found["condition_number"] == pytest.approx(scales.max() / scales.min())


def test_evening_the_rows_of_a_wide_polar_factor_changes_nothing(rng: np.random.Generator) -> None:
    polar = _polar_factor(rng.standard_normal((24, 96)) * np.geomspace(1, 9, 24)[:, None], 24)
    found = measure(polar / np.linalg.norm(polar, axis=1, keepdims=True), stage="orthogonalized")
    assert found["neuron_norm_cv"] == pytest.approx(0.0, abs=1e-14)
    assert found["polar_error"] == pytest.approx(0.0, abs=1e-14)


def test_jordan_five_times_lands_in_its_band(with_spectrum: Callable[..., np.ndarray]) -> None:
    matrix = with_spectrum((40, 100), np.geomspace(1.0, 0.05, 40))
    before = measure(matrix, stage="ns_input", polynomial=JORDAN)
    after = measure(_newton_schulz(matrix), stage="orthogonalized")
    assert before["ns_floor_fraction"] == 0.0
    (low,), (high,) = METRICS["sigma_min"].healthy, METRICS["sigma_max"].healthy
    assert low.low <= after["sigma_min"] < after["sigma_max"] <= high.high
    (error,) = METRICS["polar_error"].healthy
    assert 0.0 < after["polar_error"] <= error.high


def test_directions_that_enter_too_small_stay_small(
    with_spectrum: Callable[..., np.ndarray],
) -> None:
    matrix = with_spectrum((16, 40), np.r_[np.ones(12), np.full(4, 1e-4)])
    before = measure(matrix, stage="ns_input", polynomial=JORDAN)
    after = measure(_newton_schulz(matrix), stage="orthogonalized")
    assert before["ns_floor_fraction"] == pytest.approx(4 / 16)
    assert after["sigma_min"] < 0.5


def test_polar_factor_of_the_gradient_is_the_best_descent(rng: np.random.Generator) -> None:
    gradient = rng.standard_normal((12, 20))
    best = measure(7.0 * _polar_factor(gradient, 12), gradient=gradient)
    assert best["descent_efficiency"] == pytest.approx(1.0)
    assert measure(gradient, gradient=gradient)["descent_efficiency"] < 1.0
    assert measure(-gradient, gradient=gradient)["cosine_gradient"] == pytest.approx(-1.0)


def test_reading_by_difference_raises_the_condition_number(
    with_spectrum: Callable[..., np.ndarray],
) -> None:
    update = torch.from_numpy(with_spectrum((64, 64), np.geomspace(15.0, 1.0, 64)))
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    lr, stored = 2e-4, weight.bfloat16()
    read = (stored.float() - (stored.float() - lr * update).bfloat16().float()) / lr
    assert measure(update)["condition_number"] == pytest.approx(15.0)
    assert measure(read)["condition_number"] > 45.0
