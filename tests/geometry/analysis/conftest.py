from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.analysis.cases import LAYERS, STAGES, STEPS, Matrices


@pytest.fixture
def matrices(rng: np.random.Generator) -> Matrices:
    return {
        (step, layer.name, stage): rng.standard_normal(layer.shape).astype(np.float32)
        for step in STEPS
        for layer in LAYERS
        for stage in STAGES
    }


@pytest.fixture
def several_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit for each layer and step, as large matrices have."""
    monkeypatch.setattr("optgeom.geometry.analysis.units.LONGEST_UNIT", 1)
    monkeypatch.setattr("optgeom.geometry.analysis.units.GROUP_BYTES", 1)
