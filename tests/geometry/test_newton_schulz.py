from __future__ import annotations

import numpy as np
import pytest

from optgeom.geometry.newton_schulz import floor_fraction, odd_polynomials, row_error

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
SIMPLE = ((2.0, -1.5, 0.5),) * 12


def test_polynomials_against_the_matrix_iteration(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((5, 9))
    x = matrix / np.linalg.norm(matrix)
    s = np.linalg.svd(x, compute_uv=False)
    for a, b, c in JORDAN:
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    expected = np.sort(np.abs(np.linalg.svd(x, compute_uv=False)))
    np.testing.assert_allclose(np.sort(np.abs(odd_polynomials(s, JORDAN))), expected, rtol=1e-10)


@pytest.mark.parametrize(("polynomial", "small"), [(JORDAN, 1e-4), (SIMPLE, 1e-5)])
def test_small_directions_are_counted(
    polynomial: tuple[tuple[float, float, float], ...], small: float
) -> None:
    s = np.r_[np.ones(6), np.full(2, small)]
    assert floor_fraction(s, polynomial) == 0.25
    assert floor_fraction(s * 1e30, polynomial) == 0.25
    assert floor_fraction(np.ones(8), polynomial) == 0.0


def test_row_error_is_the_residual_of_least_squares(rng: np.random.Generator) -> None:
    found, exact = rng.random(20) + 0.1, rng.random(20) + 0.1
    (c,), residual, *_ = np.linalg.lstsq(exact[:, None], found, rcond=None)
    expected = np.sqrt(residual[0]) / np.linalg.norm(found)
    assert c > 0
    assert row_error(found, exact) == pytest.approx(expected)
    assert row_error(found * 1e30, exact * 1e-30) == pytest.approx(expected)


def test_a_multiple_has_no_row_error() -> None:
    assert row_error([2.0, 4.0], [1.0, 2.0]) == pytest.approx(0.0, abs=1e-15)
    assert row_error([1.0, 0.0], [0.0, 1.0]) == pytest.approx(1.0)
    assert row_error([0.0, 0.0], [1.0, 1.0]) is None
