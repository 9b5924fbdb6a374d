from __future__ import annotations

import numpy as np
import pytest

from optgeom.geometry import balance

RULES = (
    balance.coefficient_of_variation,
    balance.max_min,
    balance.p99_median,
    balance.gini,
    balance.top_share,
    balance.dormant_fraction,
)


@pytest.fixture(params=[1, 2, 7, 100, 101, 250])
def norms(request: pytest.FixtureRequest, rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.standard_normal(request.param) * 1.5)


def test_cv(norms: np.ndarray) -> None:
    mean = sum(norms) / len(norms)
    variance = sum((x - mean) ** 2 for x in norms) / len(norms)
    assert balance.coefficient_of_variation(norms) == pytest.approx(variance**0.5 / mean)


def test_ratios(norms: np.ndarray) -> None:
    ordered = sorted(norms)

    def percentile(q: float) -> float:
        place = q * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    assert balance.max_min(norms) == pytest.approx(ordered[-1] / ordered[0])
    assert balance.p99_median(norms) == pytest.approx(percentile(0.99) / percentile(0.5))


def test_gini(norms: np.ndarray) -> None:
    apart = np.abs(norms[:, None] - norms[None, :]).sum()
    expected = apart / (2 * len(norms) ** 2 * norms.mean())
    assert balance.gini(norms) == pytest.approx(expected, abs=1e-14)


def test_top_share(norms: np.ndarray) -> None:
    count = -(-len(norms) // 100)
    energy = sorted(norms**2, reverse=True)
    assert balance.top_share(norms) == pytest.approx(sum(energy[:count]) / sum(energy))


def test_dormant(norms: np.ndarray) -> None:
    expected = sum(x < 0.1 * norms.mean() for x in norms) / len(norms)
    assert balance.dormant_fraction(norms) == expected


def test_even_rows() -> None:
    even = np.full(300, 2.5)
    found = [rule(even) for rule in RULES]
    np.testing.assert_allclose(found, [0.0, 1.0, 1.0, 0.0, 0.01, 0.0], atol=1e-14)


def test_one_row_holds_everything() -> None:
    found = balance.neuron_balance([0.0, 0.0, 3.0, 0.0])
    assert found == {
        "neuron_norm_cv": pytest.approx(3**0.5),
        "neuron_norm_max_min": None,
        "neuron_norm_p99_median": None,
        "neuron_norm_gini": pytest.approx(0.75),
        "neuron_top1pct_share": 1.0,
        "neuron_dormant_fraction": 0.75,
    }


@pytest.mark.parametrize("norms", [[0.0, 0.0], [1.0, np.nan], [np.inf, 1.0]])
def test_undefined_is_none_never_zero(norms: list[float]) -> None:
    assert [rule(norms) for rule in RULES] == [None] * len(RULES)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_is_safe(scale: float) -> None:
    norms = np.array([0.2, 1.0, 5.0])
    assert [rule(norms * scale) for rule in RULES] == pytest.approx([rule(norms) for rule in RULES])
