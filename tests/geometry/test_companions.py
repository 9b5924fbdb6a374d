from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.geometry.companions import UNRESOLVED, Along, Reach


def _reach(matrix: torch.Tensor) -> Reach:
    return Reach.of(matrix, float(matrix.double().square().sum()))


def _exact(update: torch.Tensor, weight: torch.Tensor) -> tuple[float, float]:
    u, w = update.double().numpy(), weight.double().numpy()
    size = np.linalg.norm(w)
    return float((u * w).sum() / size), float(size)


def _assert_close(found: Along, exact: tuple[float, float], size: float, bound: float) -> None:
    assert float(found.length) == pytest.approx(exact[0], abs=1e-6 * size + bound * size)
    assert float(found.norm) == pytest.approx(exact[1], rel=4e-7 + bound)


@pytest.mark.parametrize("left", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("right", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_along_at_any_scale(
    left: float, right: float, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    a = torch.from_numpy(rng.standard_normal((40, 30)) * left).to(dtype)
    b = torch.from_numpy(rng.standard_normal((40, 30)) * right).to(dtype) + a
    _assert_close(_reach(a).along(b), _exact(a, b), float(a.double().norm()), 0.0)


def test_nothing_lies_along_nothing() -> None:
    matrix = torch.ones(3, 4)
    zero = _reach(matrix).along(torch.zeros(3, 4))
    assert math.isnan(zero.length)
    assert zero.norm == 0.0
    assert math.isnan(_reach(matrix).along(torch.full((3, 4), torch.nan)).length)


@st.composite
def _steps(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """An update, the weight before it, the divisor and the decay."""
    shape = draw(st.sampled_from([(1, 1), (3, 5), (40, 30), (64, 512)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    before = torch.from_numpy(rng.standard_normal(shape)).float()
    toward = draw(st.floats(-1.0, 1.0))
    update = torch.from_numpy(rng.standard_normal(shape)).float() + toward * before
    lr = draw(st.floats(1e-5, 0.3)) * draw(st.sampled_from([1.0, -1.0]))
    return update, before, lr, draw(st.sampled_from([0.0, 1e-4, 0.1, -0.1, 1.5]))


@settings(max_examples=150, deadline=None)
@given(_steps())
def test_the_weight_after_stands_in_for_the_weight_before(
    step: tuple[torch.Tensor, torch.Tensor, float, float],
) -> None:
    update, before, lr, decay = step
    after = ((1.0 - decay) * before.double() - lr * update.double()).float()
    found = _reach(update).along_weight_before(after, lr=lr, decay=decay)
    size = float(update.double().norm())
    # Rounding of the stored weight, and then of the sums, grows with the cancellation.
    c = (float(after.double().norm()) + abs(lr) * size) / (
        abs(1.0 - decay) * float(before.double().norm())
    )
    _assert_close(found, _exact(update, before), size, 2.0**-23 * c)


@settings(max_examples=100, deadline=None)
@given(_steps(), st.sampled_from([torch.bfloat16, torch.float16]))
def test_a_narrow_weight_after_errs_by_its_own_rounding(
    step: tuple[torch.Tensor, torch.Tensor, float, float], dtype: torch.dtype
) -> None:
    update, before, lr, decay = step
    before = before.to(dtype).float()
    after = ((1.0 - decay) * before.double() - lr * update.double()).to(dtype)
    found = _reach(update).along_weight_before(after, lr=lr, decay=decay)
    size = float(update.double().norm())
    c = (float(after.double().norm()) + abs(lr) * size) / (
        abs(1.0 - decay) * float(before.double().norm())
    )
    _assert_close(found, _exact(update, before), size, torch.finfo(dtype).eps * c + 1e-7)


def test_products_of_the_stored_weight_agree_with_rebuilding_it() -> None:
    # In bfloat16 nothing moves: both must say the same of the same stored numbers.
    torch.manual_seed(3)
    update, stored = torch.randn(2, 64, 96)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        after = stored.to(dtype)
        found = _reach(update).along_weight_before(after, lr=1e-3, decay=1e-2)
        rebuilt = (after.double() + 1e-3 * update.double()) / (1 - 1e-2)
        _assert_close(found, _exact(update, rebuilt), float(update.norm()), 0.0)


@pytest.mark.parametrize("step", [10.0, 1e3, 1e5])
def test_a_weight_far_smaller_than_the_step_is_rebuilt(step: float) -> None:
    torch.manual_seed(5)
    before, update = torch.randn(2, 60, 80)
    after = (before.double() - step * update.double()).float()
    found = _reach(update).along_weight_before(after, lr=step, decay=0.0)
    _assert_close(found, _exact(update, before), float(update.norm()), 2.0**-23 * step)


def test_a_weight_that_began_at_zero_is_not_known() -> None:
    update = torch.randn(30, 20)
    after = update * -0.37
    found = _reach(update).along_weight_before(after, lr=0.37, decay=0.1)
    assert math.isnan(found.length)
    assert math.isnan(found.norm)
    tiny = after + 10 * UNRESOLVED * torch.randn(30, 20)
    assert not math.isnan(_reach(update).along_weight_before(tiny, lr=0.37, decay=0.1).norm)


def test_a_decay_of_everything_leaves_nothing_to_know() -> None:
    found = _reach(torch.eye(3)).along_weight_before(torch.eye(3), lr=0.1, decay=1.0)
    assert math.isnan(found.norm)


def test_no_value_is_looked_at_on_a_device() -> None:
    matrix = torch.empty(5, 7, device="meta")
    reach = Reach.of(matrix, math.nan)
    for found in (reach.along(matrix), reach.along_weight_before(matrix, lr=0.1, decay=0.1)):
        assert isinstance(found.length, torch.Tensor)
        assert isinstance(found.norm, torch.Tensor)
        assert found.length.shape == found.norm.shape == ()
