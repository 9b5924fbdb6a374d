"""The oracle of test_exact against arbitrary precision."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

from tests.geometry import oracles
from tests.geometry.families import with_spectrum

EXTENDED = np.finfo(np.longdouble).eps < 1e-18


def _to_mp(matrix: Any) -> Any:
    return mpmath.matrix([[mpmath.mpf(str(entry)) for entry in row] for row in matrix])


def _distance(found: oracles.Long, exact: Any) -> Any:
    return max(abs(mpmath.mpf(str(a)) - b) for a, b in zip(found, exact, strict=True))


@pytest.mark.skipif(not EXTENDED, reason="long double is float64 here, and so is the oracle")
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
@pytest.mark.parametrize("kappa", [10.0, 1e6, 1e14])
def test_decomposition(shape: tuple[int, int], kappa: float, rng: np.random.Generator) -> None:
    rank = min(shape)
    matrix = with_spectrum(shape, np.geomspace(1.0, 1.0 / kappa, rank), rng).astype(np.longdouble)
    found = oracles.decomposed(matrix)
    with mpmath.workdps(50):
        left, s, _ = mpmath.svd_r(_to_mp(matrix))
        assert _distance(found.s, s) < 2e-18 * s[0]
        for kept in (2, rank):
            rows = [mpmath.norm(left[i, :kept]) for i in range(shape[0])]
            assert _distance(oracles.polar_rows(found, kept), rows) < 1e-18 * (10.0 + kappa)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6), (1, 5), (5, 1)])
def test_rank_deficient_and_zero_columns(shape: tuple[int, int], rng: np.random.Generator) -> None:
    matrix = rng.integers(-3, 4, shape).astype(np.longdouble)
    matrix[:, -1] = matrix[:, 0]
    matrix[-1] = 0.0 if shape[0] > 1 else matrix[-1]
    found = oracles.decomposed(matrix)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found.s.astype(np.float64), exact, atol=4e-15 * exact[0])
    kept = int((exact > 1e-10 * exact[0]).sum())
    squares = (oracles.polar_rows(found, kept) ** 2).sum()
    assert float(squares) == pytest.approx(kept)


def test_what_is_counted_has_an_interval() -> None:
    items = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.longdouble)
    above = oracles.Counted(items, 3.0, above=True, share=False)
    assert above.interval(0.0) == (1.0, 2.0)
    assert above.interval(1.5) == (0.0, 3.0)
    below = oracles.Counted(items, 2.5, above=False, share=True)
    assert below.interval(0.1) == (0.5, 0.5)
