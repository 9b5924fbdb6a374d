"""What must not change a metric: scale, rotation, the order of rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optgeom.geometry import METRICS, columns
from optgeom.geometry.measure import measure

SCALED = {"frobenius_norm", "spectral_norm", "nuclear_norm", "noise_floor", "update_rms"}
STAGES = st.sampled_from(["update", "ns_input", "weight"])
POLYNOMIAL = ((3.4445, -4.7750, 2.0315),) * 5
LARGEST_KAPPA = 1e4
# By the Gram matrix 1e-16 kappa^2, ten times what was measured, and as much again for the rotation.
SPECTRUM_BOUND = 1e-15 * LARGEST_KAPPA**2


@st.composite
def _matrices(draw: st.DrawFn) -> np.ndarray:
    rows, cols = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    uneven = draw(st.floats(0.0, 1.5))
    matrix = rng.standard_normal((rows, cols)) * np.exp(uneven * rng.standard_normal((rows, 1)))
    assume(np.linalg.cond(matrix) < LARGEST_KAPPA)
    return matrix


def _assert_same(found: dict, expected: dict, names: set[str], factor: float = 1.0) -> None:
    for name in names:
        value = expected[name]
        if value is None:
            assert found[name] is None, name
            continue
        wanted = value * factor if name in SCALED else value
        bound = SPECTRUM_BOUND if name in columns("spectra") else 1e-10
        assert found[name] == pytest.approx(wanted, rel=bound, abs=bound * factor), name


@settings(max_examples=40, deadline=None)
@given(_matrices(), st.floats(-30, 30), STAGES)
def test_scale(matrix: np.ndarray, exponent: float, stage: str) -> None:
    factor = 10.0**exponent
    expected = measure(matrix, stage=stage, polynomial=POLYNOMIAL)
    found = measure(matrix * factor, stage=stage, polynomial=POLYNOMIAL)
    _assert_same(found, expected, set(METRICS), factor)


@settings(max_examples=40, deadline=None)
@given(_matrices(), st.randoms(use_true_random=False), STAGES)
def test_order_of_rows_and_columns(matrix: np.ndarray, random: object, stage: str) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    mixed = matrix[rng.permutation(matrix.shape[0])][:, rng.permutation(matrix.shape[1])]
    expected = measure(matrix, stage=stage, polynomial=POLYNOMIAL)
    _assert_same(measure(mixed, stage=stage, polynomial=POLYNOMIAL), expected, set(METRICS))


@settings(max_examples=40, deadline=None)
@given(_matrices(), st.integers(0, 2**32 - 1))
def test_rotations(matrix: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((matrix.shape[0],) * 2))
    right, _ = np.linalg.qr(rng.standard_normal((matrix.shape[1],) * 2))
    expected = measure(matrix, stage="ns_input")
    of_spectrum = set(columns("spectra")) - {"leverage_cv"}
    _assert_same(measure(left @ matrix @ right, stage="ns_input"), expected, of_spectrum)
    # A rotation of the inputs alone keeps every row's norm and leverage.
    of_rows = {name for name in METRICS if name.startswith("neuron_norm")} | {"leverage_cv"}
    _assert_same(measure(matrix @ right, stage="ns_input"), expected, of_rows)


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
