from __future__ import annotations

import numpy as np
import pytest

from optgeom.geometry.balance import coefficient_of_variation, column_balance, neuron_balance


@pytest.fixture(params=[1, 2, 7, 100, 101, 250])
def norms(request: pytest.FixtureRequest, rng: np.random.Generator) -> np.ndarray:
    """Row norms of three matrices."""
    return np.exp(rng.standard_normal((3, request.param)) * 1.5)


def _percentile(norms: np.ndarray, q: float) -> float:
    ordered = sorted(norms)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _slow(norms: np.ndarray) -> dict[str, float]:
    """One matrix at a time, each metric by its formula."""
    mean = sum(norms) / len(norms)
    apart = np.abs(norms[:, None] - norms[None, :]).sum()
    energy = sorted(norms**2, reverse=True)
    return {
        "neuron_norm_cv": (sum((x - mean) ** 2 for x in norms) / len(norms)) ** 0.5 / mean,
        "neuron_norm_max_min": max(norms) / min(norms),
        "neuron_norm_p99_median": _percentile(norms, 0.99) / _percentile(norms, 0.5),
        "neuron_norm_gini": apart / (2 * len(norms) ** 2 * mean),
        "neuron_top1pct_share": sum(energy[: -(-len(norms) // 100)]) / sum(energy),
        "neuron_dormant_fraction": sum(x < 0.1 * mean for x in norms) / len(norms),
    }


def test_every_metric_of_a_batch_by_its_formula(norms: np.ndarray) -> None:
    frozen = norms.copy()
    found = neuron_balance(norms)
    for i, row in enumerate(norms):
        expected = _slow(row)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-12, abs=1e-14), name
        assert coefficient_of_variation(row) == pytest.approx(expected["neuron_norm_cv"], abs=1e-14)
    assert np.array_equal(norms, frozen)


def test_columns_have_the_same_formulas(norms: np.ndarray) -> None:
    rows, columns = neuron_balance(norms), column_balance(norms)
    np.testing.assert_allclose(columns["column_norm_cv"], rows["neuron_norm_cv"], atol=1e-14)
    np.testing.assert_allclose(columns["column_norm_max_min"], rows["neuron_norm_max_min"])


def test_even_rows() -> None:
    found = neuron_balance(np.full((1, 300), 2.5))
    np.testing.assert_allclose(
        [values[0] for values in found.values()], [0.0, 1.0, 1.0, 0.0, 0.01, 0.0], atol=1e-14
    )


def test_one_row_holds_everything() -> None:
    found = neuron_balance([[0.0, 0.0, 3.0, 0.0]])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {
            "neuron_norm_cv": 3**0.5,
            "neuron_norm_max_min": np.nan,
            "neuron_norm_p99_median": np.nan,
            "neuron_norm_gini": 0.75,
            "neuron_top1pct_share": 1.0,
            "neuron_dormant_fraction": 0.75,
        },
        nan_ok=True,
    )


@pytest.mark.parametrize("bad", [[0.0, 0.0], [1.0, np.nan], [np.inf, 1.0]])
def test_undefined_is_nan_never_zero_and_stays_in_its_row(bad: list[float]) -> None:
    for found in (neuron_balance([bad, [1.0, 2.0]]), column_balance([bad, [1.0, 2.0]])):
        for values in found.values():
            assert np.isnan(values[0])
            assert np.isfinite(values[1])
    assert coefficient_of_variation(bad) is None


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_is_safe(scale: float) -> None:
    norms = np.array([[0.2, 1.0, 5.0]])
    expected = neuron_balance(norms)
    for name, values in neuron_balance(norms * scale).items():
        assert values == pytest.approx(expected[name]), name
