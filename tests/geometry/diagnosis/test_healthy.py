"""Nothing is wrong with runs that nothing is wrong with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import optgeom
from optgeom.geometry.diagnosis.registry import RULES
from tests.geometry.diagnosis.conftest import HEALTHY

OF_MUON = {"not_orthogonal", "muon_scale", "not_converged"}
OF_STAGES = {"uneven_neurons"}
OF_RANKS = {"orthogonalized_per_shard", "ranks_disagree"}
OF_NORMUON = {"wrong_neuron_axis"}
OF_MANY_CAPTURES = {
    "repeated_update",
    "reversed_update",
    "dominant_neurons",
    "dormant_neurons",
    "never_moves",
    "ascends",
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_gives_no_warning(name: str, healthy: Mapping[str, optgeom.Trace]) -> None:
    found = optgeom.diagnose(healthy[name])
    assert not found.found, str(found)
    # and not because nobody looked
    blind = set(OF_RANKS)
    if name.startswith("adamw"):
        blind |= OF_MUON | OF_STAGES | OF_NORMUON
    elif not name.startswith("normuon"):
        blind |= OF_NORMUON
    if name.startswith("torch-muon"):
        blind |= OF_STAGES
    if name.endswith("by-default"):
        blind |= OF_MANY_CAPTURES
    assert set(found.not_judged) == blind
    assert {*found.judged, *found.not_judged} == {rule.name for rule in RULES}


def test_muon_is_told_that_its_unevenness_is_leverage(
    healthy: Mapping[str, optgeom.Trace],
) -> None:
    """Muon's up-projections are uneven by leverage, and NorMuon has evened them out."""
    for seed in (0, 1, 2):
        (note,) = optgeom.diagnose(healthy[f"muon-{seed}"]).findings
        assert (note.rule, note.severity) == ("uneven_neurons", "note")
        assert "leverage" in note.title
        for one in note.evidence:  # each is the value of that very capture
            grid = healthy[f"muon-{seed}"].grid(one.what, one.stage)
            row, place = grid.steps.tolist().index(one.step), list(grid.layers).index(one.layer)
            assert one.value == pytest.approx(float(grid.values[row, place]))
            assert "full rank" not in one.expected  # up-projections are tall
        assert all(".mlp.up" in layer for layer in note.layers)
        assert not optgeom.diagnose(healthy[f"normuon-{seed}"]).findings


@pytest.mark.slow
def test_the_demo_gives_no_warning(demo_runs: Path) -> None:
    for name, trace in optgeom.open_traces(demo_runs).items():
        found = optgeom.diagnose(trace)
        assert not found.found, f"{name}: {found}"
