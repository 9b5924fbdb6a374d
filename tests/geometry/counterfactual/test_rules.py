"""Each rule against its formula, with an exact polar factor by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import polar as exact_polar

from optgeom.optim import NorMuonSettings, normuon_settings, normuon_update
from optgeom.optim.families import FAMILIES
from optgeom.optim.normuon import second_moment_shape
from optgeom.rules import RULES, aurora, normuon, rule_named
from optgeom.traces.errors import OptgeomError

SHAPES = ((24, 8), (8, 24), (12, 12))


def _matrix(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    size = np.exp(draw.standard_normal((shape[0], 1)))
    return torch.from_numpy((size * draw.standard_normal(shape)).astype(np.float32))


def _polar(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = exact_polar(matrix)[0]
    return found


def _cv(matrix: NDArray[np.float64]) -> float:
    norms = np.linalg.norm(matrix, axis=1)
    return float(norms.std() / norms.mean())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_rule_leaves_its_input_and_keeps_zero_at_rest(
    name: str, shape: tuple[int, int]
) -> None:
    rule, matrix = rule_named(name), _matrix(shape)
    before = matrix.clone()
    update = rule.apply(matrix, None, None).update
    assert (matrix == before).all()
    assert (update.dtype, update.shape) == (torch.float32, matrix.shape)
    assert torch.isfinite(update).all()
    assert update.any()
    assert not rule.apply(torch.zeros(shape), None, None).update.any()
    assert rule.words
    assert rule.source
    assert rule.name == name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_normuon_is_the_optimizers_update(family: str, shape: tuple[int, int]) -> None:
    # without momentum the gradient itself is orthogonalized
    settings: NorMuonSettings = normuon_settings(family, momentum=0.0, nesterov=False)
    rule = normuon(family)
    moment = torch.zeros(second_moment_shape(shape, settings=settings))
    held: Any = None
    for step in range(3):
        matrix = _matrix(shape, step)
        true = normuon_update(matrix, torch.zeros(shape), moment, settings=settings)
        found = rule.apply(matrix, held, None)
        assert (found.update == true.update).all()
        held, moment = found.second_moment, true.second_moment
        # told the second moment after the step, it needs none before
        told = rule.apply(matrix, None, moment)
        torch.testing.assert_close(told.update, true.update, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_aurora_is_the_polar_factor_of_scaled_rows(shape: tuple[int, int]) -> None:
    matrix = _matrix(shape)
    tall = matrix.double().numpy() if shape[0] > shape[1] else matrix.double().numpy().T
    scale = 1.0 / np.linalg.norm(tall, axis=1, keepdims=True)
    first = _polar(scale * tall)
    scale = scale * (tall.shape[1] / tall.shape[0] / (first**2).sum(1, keepdims=True)) ** 0.5
    true = _polar(scale * tall)
    assert _cv(true) < 0.8 * _cv(_polar(tall))  # that is what it is for
    true = true if shape[0] > shape[1] else true.T
    true *= np.sqrt(max(1.0, shape[0] / shape[1]))
    found = aurora(ns_dtype="float32").apply(matrix, None, None).update.numpy()
    np.testing.assert_allclose(found, true, atol=1e-4)
    published = aurora().apply(matrix, None, None).update.numpy()
    np.testing.assert_allclose(published, true, atol=0.03)  # bfloat16


def test_a_square_matrix_is_auroras_polar_factor() -> None:
    matrix = _matrix((12, 12))
    found = aurora(ns_dtype="float32").apply(matrix, None, None).update.numpy()
    # 12 steps do not reach one for the smallest of these singular values
    s = np.linalg.svd(found, compute_uv=False)
    assert s[:-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_polar_and_sign(shape: tuple[int, int]) -> None:
    matrix = _matrix(shape)
    scale = 0.2 * np.sqrt(max(shape))
    found = rule_named("polar").apply(matrix, None, None).update.numpy()
    np.testing.assert_allclose(found, scale * _polar(matrix.double().numpy()), atol=1e-6)
    signs = rule_named("adamw-sign").apply(matrix, None, None).update.numpy()
    assert (signs == np.sign(matrix.numpy())).all()
    broken = matrix.clone()
    broken[0, 0] = torch.inf
    assert rule_named("polar").apply(broken, None, None).update.isnan().all()


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(OptgeomError, match="no rule 'normoun': did you mean normuon"):
        rule_named("normoun")
