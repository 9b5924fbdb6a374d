from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optgeom.geometry import conditioning, ranks

SPECTRA = [
    np.ones(6),
    np.geomspace(4.0, 1e-3, 25),
    np.array([2.0]),
    np.array([3.0, 3.0, 1e-200]),
    np.array([1.0, 0.5, 0.0, 0.0]),
]
spectra = arrays(
    np.float64, st.integers(2, 40), elements=st.floats(1e-6, 1.0), fill=st.nothing()
).map(lambda values: np.sort(values)[::-1])


def _entropy(shares: list[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


@pytest.mark.parametrize("s", SPECTRA, ids=lambda s: f"r={len(s)}")
def test_against_the_formulas(s: np.ndarray) -> None:
    total, energy = sum(s), sum(x * x for x in s)
    p, q = [x / total for x in s], [x * x / energy for x in s]
    assert ranks.stable_rank(s) == pytest.approx(energy / s[0] ** 2)
    assert ranks.nuclear_rank(s) == pytest.approx(total**2 / energy)
    assert ranks.effective_rank(s) == pytest.approx(math.exp(_entropy(p)))
    assert ranks.effective_rank_energy(s) == pytest.approx(math.exp(_entropy(q)))
    assert ranks.top_energy(s) == pytest.approx(sum(q[:10]))
    if len(s) == 1:
        assert ranks.svd_entropy(s) is None
    else:
        assert ranks.svd_entropy(s) == pytest.approx(_entropy(q) / math.log(len(s)))
    mean = energy / len(s)
    spread = sum((x * x - mean) ** 2 for x in s) / len(s)
    flatness = conditioning.spectral_flatness_cv(s)
    assert flatness == pytest.approx(math.sqrt(spread) / mean, abs=1e-14)
    error = math.sqrt(sum((x - 1) ** 2 for x in s) / len(s))
    assert conditioning.polar_error(s) == pytest.approx(error)


def test_quartiles_by_linear_interpolation() -> None:
    s = np.sqrt([16.0, 9.0, 4.0, 1.0])
    # Sorted squares 1 4 9 16: quartiles at places 0.75 and 2.25.
    assert ranks.quartile_ratio(s) == pytest.approx((9 + 0.25 * 7) / (1 + 0.75 * 3))
    assert ranks.quartile_ratio(s, floor=1.7) is not None
    assert ranks.quartile_ratio(s, floor=1.9) is None
    assert ranks.quartile_ratio(np.array([1.0, 0.0, 0.0, 0.0])) is None


@given(spectra)
def test_ranks_are_ordered_and_bounded(s: np.ndarray) -> None:
    found = [ranks.stable_rank(s), ranks.effective_rank_energy(s), ranks.effective_rank(s)]
    assert found[0] >= 1.0 - 1e-9
    assert found[1] <= found[2] * (1 + 1e-9) <= len(s) * (1 + 2e-9)
    assert found[0] <= ranks.nuclear_rank(s) * (1 + 1e-9)
    entropy = ranks.svd_entropy(s)
    assert entropy is not None
    assert 0.0 <= entropy <= 1.0 + 1e-12


@given(spectra, st.floats(1e-150, 1e150))
def test_ranks_do_not_see_scale(s: np.ndarray, scale: float) -> None:
    for rule in (
        ranks.stable_rank,
        ranks.nuclear_rank,
        ranks.effective_rank,
        ranks.effective_rank_energy,
        ranks.svd_entropy,
        ranks.top_energy,
        ranks.quartile_ratio,
        conditioning.spectral_flatness_cv,
    ):
        assert rule(s * scale) == pytest.approx(rule(s), rel=1e-9, abs=1e-12), rule


def test_condition_number_above_the_floor() -> None:
    found = conditioning.conditioning([8.0, 4.0, 2.0], 1.9)
    assert found == (4.0, 4.0, 3, False)


def test_at_the_floor_it_is_a_lower_bound() -> None:
    found = conditioning.conditioning([8.0, 4.0, 2.0], 2.0)
    assert found == (4.0, 2.0, 2, True)
    found = conditioning.conditioning([8.0, 4.0, 1e-9], 1e-3)
    assert found == (8000.0, 2.0, 2, True)


def test_all_below_the_floor() -> None:
    assert conditioning.conditioning([8.0, 4.0], 16.0) == (1.0, None, 0, True)
