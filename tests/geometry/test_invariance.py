"""What must not change a metric: scale, rotation, signs, the order of rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optgeom.geometry import METRICS, columns
from optgeom.geometry.measure import measure

SCALED = {"frobenius_norm", "spectral_norm", "nuclear_norm", "noise_floor", "update_rms"}
STAGES = st.sampled_from(["update", "ns_input", "weight"])
SEEDS = st.integers(0, 2**32 - 1)
POLYNOMIAL = ((3.4445, -4.7750, 2.0315),) * 5
LARGEST_KAPPA = 1e4
TRANSFORMED = 1e-13
"""Relative error of the transformed matrix itself: a rotation rounds every entry."""


@st.composite
def _matrices(draw: st.DrawFn) -> np.ndarray:
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(SEEDS))
    uneven = draw(st.floats(0.0, 1.5))
    matrix = rng.standard_normal((rows, cols)) * np.exp(uneven * rng.standard_normal((rows, 1)))
    assume(np.linalg.cond(matrix) < LARGEST_KAPPA)
    return matrix


def _assert_same(
    found: dict[str, Any], expected: dict[str, Any], names: set[str], factor: float = 1.0
) -> None:
    """Both are within the catalogue's bound of one exact value."""
    for name in names:
        value = expected[name]
        if value is None:
            assert found[name] is None, name
            continue
        wanted = value * factor if name in SCALED else value
        bound = METRICS[name].accuracy.bound(
            wanted,
            double=True,
            kappa=expected["condition_number"],
            count=12,
            largest=expected["spectral_norm"] * factor,
        )
        kappa = expected["condition_number"] if name in columns("spectra") else 1.0
        slack = TRANSFORMED * (kappa * abs(wanted) + (factor if name in SCALED else 1.0))
        assert abs(found[name] - wanted) <= 2.0 * bound + slack, name


@settings(max_examples=40, deadline=None)
@given(_matrices(), st.floats(-30, 30), STAGES)
def test_scale(matrix: np.ndarray, exponent: float, stage: str) -> None:
    factor = 10.0**exponent
    expected = measure(matrix, stage=stage, polynomial=POLYNOMIAL)
    found = measure(matrix * factor, stage=stage, polynomial=POLYNOMIAL)
    _assert_same(found, expected, set(METRICS), factor)


@settings(max_examples=40, deadline=None)
@given(_matrices(), SEEDS, STAGES)
def test_order_and_signs_of_rows_and_columns(matrix: np.ndarray, seed: int, stage: str) -> None:
    rng = np.random.default_rng(seed)
    mixed = matrix[rng.permutation(matrix.shape[0])][:, rng.permutation(matrix.shape[1])]
    mixed *= rng.choice([-1.0, 1.0], (matrix.shape[0], 1))
    mixed *= rng.choice([-1.0, 1.0], matrix.shape[1])
    expected = measure(matrix, stage=stage, polynomial=POLYNOMIAL)
    _assert_same(measure(mixed, stage=stage, polynomial=POLYNOMIAL), expected, set(METRICS))


@settings(max_examples=40, deadline=None)
@given(_matrices(), SEEDS)
def test_rotations(matrix: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((matrix.shape[0],) * 2))
    right, _ = np.linalg.qr(rng.standard_normal((matrix.shape[1],) * 2))
    expected = measure(matrix, stage="ns_input", polynomial=POLYNOMIAL)
    of_spectrum = set(columns("spectra")) - {"leverage_cv"} | {"frobenius_norm"}
    turned = measure(left @ matrix @ right, stage="ns_input", polynomial=POLYNOMIAL)
    _assert_same(turned, expected, of_spectrum)
    # A rotation of the inputs alone keeps every row's norm and leverage.
    of_rows = {name for name in METRICS if name.startswith("neuron_")} | {"leverage_cv"}
    _assert_same(measure(matrix @ right, stage="ns_input"), expected, of_rows)


@settings(max_examples=40, deadline=None)
@given(_matrices())
def test_a_transpose_swaps_neurons_and_inputs(matrix: np.ndarray) -> None:
    found, expected = measure(matrix.T), measure(matrix)
    _assert_same(found, expected, set(columns("spectra")) | {"frobenius_norm", "update_rms"})
    for name in ("norm_cv", "norm_max_min"):
        expected[f"neuron_{name}"] = expected[f"column_{name}"]
    _assert_same(found, expected, {"neuron_norm_cv", "neuron_norm_max_min"})


@settings(max_examples=40, deadline=None)
@given(_matrices(), SEEDS)
def test_leverage_sees_the_column_space_alone(matrix: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((matrix.shape[1],) * 2)
    mixing += 3.0 * np.sqrt(len(mixing)) * np.eye(len(mixing))
    mixed = matrix @ mixing
    assume(np.linalg.cond(mixed) < LARGEST_KAPPA)
    expected = measure(matrix, stage="ns_input")
    # The harder of the two to measure decides the bound.
    again = measure(mixed, stage="ns_input")
    expected["condition_number"] = max(expected["condition_number"], again["condition_number"])
    _assert_same(again, expected, {"leverage_cv", "leverage_rank"})


@settings(max_examples=40, deadline=None)
@given(_matrices())
def test_values_lie_in_the_catalogues_range(matrix: np.ndarray) -> None:
    found = measure(matrix, weight=matrix[::-1], gradient=matrix**3, lr=0.1)
    for name, metric in METRICS.items():
        low, high = metric.range
        value = found[name]
        if value is not None:
            assert low is None or value >= low - 1e-12, name
            assert high is None or value <= high + 1e-12, name
