"""Matrices whose spectra are known, made without the code under test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
MakeMatrix = Callable[..., Array]


def _orthonormal(rows: int, cols: int, rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((rows, cols)))
    return q * np.sign(np.diag(r))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20251)


@pytest.fixture
def with_spectrum(rng: np.random.Generator) -> MakeMatrix:
    """U diag(s) V^T of a shape, U and V random orthonormal."""

    def make(shape: tuple[int, int], s: Array) -> Array:
        rank = len(s)
        left = _orthonormal(shape[0], rank, rng)
        right = _orthonormal(shape[1], rank, rng)
        return (left * np.asarray(s)) @ right.T

    return make
