from __future__ import annotations

from pathlib import Path

import pytest

import optgeom
from tests.geometry.counterfactual.training import train


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whatif")


@pytest.fixture(scope="package")
def muon(folder: Path) -> optgeom.Trace:
    """Muon with Nesterov in float32, every matrix of every step."""
    stages = ("update", "ns_input", "momentum", "gradient", "weight")
    return train(folder / "muon", "muon", stages=stages)


@pytest.fixture(scope="package")
def normuon(folder: Path) -> optgeom.Trace:
    """NorMuon with the same gradients, so the same momenta."""
    return train(folder / "true", "normuon", stages=("update",))


@pytest.fixture(scope="package")
def whatif(folder: Path, muon: optgeom.Trace) -> optgeom.Trace:
    """What NorMuon would have applied in the Muon run."""
    found = optgeom.whatif(muon, updates=True, out=folder / "computed")
    return found.traces["normuon"]
