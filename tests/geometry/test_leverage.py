from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

from optgeom.geometry.leverage import polar_row_norms
from optgeom.geometry.singular import singular_values


def _polar(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    tensor = torch.from_numpy(matrix)
    found = polar_row_norms(tensor, singular_values(tensor).values)
    return found.norms.numpy(), int(found.rank)


def _oracle(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, _, right = scipy.linalg.svd(matrix, full_matrices=False)
    return np.linalg.norm(left[:, :rank] @ right[:rank], axis=1)


@pytest.mark.parametrize(("kappa", "bound"), [(1.0, 1e-13), (1e3, 1e-9), (5e5, 1e-4)])
@pytest.mark.parametrize("shape", [(90, 30), (30, 90), (40, 40)])
def test_full_rank(
    shape: tuple[int, int], kappa: float, bound: float, with_spectrum: Callable[..., np.ndarray]
) -> None:
    matrix = with_spectrum(shape, np.geomspace(1.0, 1.0 / kappa, min(shape)))
    norms, rank = _polar(matrix)
    assert rank == min(shape)
    np.testing.assert_allclose(norms, _oracle(matrix, rank), atol=bound)
    np.testing.assert_allclose((norms**2).sum(), rank, rtol=1e-4)


@pytest.mark.parametrize("shape", [(90, 30), (30, 90), (40, 40)])
def test_rank_deficient(shape: tuple[int, int], with_spectrum: Callable[..., np.ndarray]) -> None:
    matrix = with_spectrum(shape, np.linspace(2.0, 1.0, 11))
    matrix *= np.exp(np.linspace(-2, 2, shape[0]))[:, None]
    norms, rank = _polar(matrix)
    assert rank == 11
    np.testing.assert_allclose(norms, _oracle(matrix, 11), atol=1e-9)


def test_full_row_rank_leaves_every_row_at_one(rng: np.random.Generator) -> None:
    norms, rank = _polar(rng.standard_normal((20, 50)) * np.geomspace(1, 50, 20)[:, None])
    assert rank == 20
    np.testing.assert_allclose(norms, 1.0, atol=1e-12)


def test_the_floor_leaves_directions_out(with_spectrum: Callable[..., np.ndarray]) -> None:
    matrix = with_spectrum((40, 12), np.geomspace(1.0, 1e-3, 12))
    tensor = torch.from_numpy(matrix)
    s = singular_values(tensor).values
    found = polar_row_norms(tensor, s, floor=0.05)
    assert int(found.rank) == int((s > 0.05).sum())
    np.testing.assert_allclose(found.norms.numpy(), _oracle(matrix, int(found.rank)), atol=1e-10)


def test_scale_is_safe(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((30, 10))
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(_polar(matrix * scale)[0], _oracle(matrix, 10), atol=1e-12)


def test_a_batch_of_unequal_ranks_is_its_members(with_spectrum: Callable[..., np.ndarray]) -> None:
    members = [with_spectrum((14, 6), np.ones(rank)) for rank in (6, 3, 1)]
    batch = torch.from_numpy(np.stack(members))
    found = polar_row_norms(batch, singular_values(batch).values)
    assert found.rank.tolist() == [6, 3, 1]
    for norms, member, rank in zip(found.norms.numpy(), members, (6, 3, 1), strict=True):
        np.testing.assert_allclose(norms, _oracle(member, rank), atol=1e-12)
