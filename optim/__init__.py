"""The rules: NorMuon and Muon, usable in anyone's job. Imports nothing of ours."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.optim'")

from optgeom.optim.adamw import adamw_update
from optgeom.optim.families import (
    FAMILIES,
    AdamWSettings,
    MuonSettings,
    NorMuonSettings,
    normuon_settings,
)
from optgeom.optim.grouping import param_groups
from optgeom.optim.matrix_optimizer import MatrixOptimizer
from optgeom.optim.muon import Muon, muon_update
from optgeom.optim.newton_schulz import COEFFICIENT_SETS, orthogonalize
from optgeom.optim.normuon import NorMuon, normuon_update

__all__ = [
    "COEFFICIENT_SETS",
    "FAMILIES",
    "AdamWSettings",
    "MatrixOptimizer",
    "Muon",
    "MuonSettings",
    "NorMuon",
    "NorMuonSettings",
    "adamw_update",
    "muon_update",
    "normuon_settings",
    "normuon_update",
    "orthogonalize",
    "param_groups",
]
