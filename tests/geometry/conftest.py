"""Matrices whose spectra are known, made without the code under test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.geometry import families

Array = NDArray[np.float64]
MakeMatrix = Callable[..., Array]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20251)


@pytest.fixture
def with_spectrum(rng: np.random.Generator) -> MakeMatrix:
    """U diag(s) V^T of a shape, U and V random orthonormal."""
    return lambda shape, s: families.with_spectrum(shape, np.asarray(s), rng)
