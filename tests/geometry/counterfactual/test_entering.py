"""What enters a rule is what the run's own optimizer made of the step, or it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optgeom
from optgeom.geometry.counterfactual.entering import HAS_LOOK_AHEAD, NO_DECAY, NO_LOOK_AHEAD
from optgeom.optim import Muon
from optgeom.rules import muon as muon_rule
from optgeom.rules import normuon as normuon_rule
from tests.geometry.counterfactual.training import LAYERS, Model, apart, newton_schulz, train

PLAIN = (muon_rule(scale="none", ns_dtype="float32"),)
ALL = ("update", "momentum", "gradient", "weight")
WITHOUT = ("update", "momentum", "gradient")


def _sgd(**settings: Any) -> Callable[[Model], torch.optim.Optimizer]:
    asked = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.5} | settings
    return lambda model: torch.optim.SGD(model.parameters(), **asked)


def _computed(trace: optgeom.Trace) -> tuple[optgeom.Trace, list[str]]:
    found = optgeom.whatif(trace, PLAIN, updates=True).traces["muon:none"]
    return found, list(found.info.computed["caveats"])


def test_decay_in_the_gradient_is_in_the_look_ahead(tmp_path: Path) -> None:
    """The update of SGD with Nesterov is the look-ahead itself, weight decay included."""
    trace = train(tmp_path / "a", _sgd(), 6, stages=ALL)
    found, caveats = _computed(trace)
    assert caveats == []
    assert found.info.computed["input"] == {
        "momentum, gradient and weight (Nesterov's look-ahead)": 3
    }
    for name in LAYERS:
        for step in range(6):
            expected = newton_schulz(trace.matrix(step, name, "update"))
            assert apart(found.matrix(step, name), expected) < 1e-5


def test_where_no_weight_is_recorded_it_is_said_to_be_missing(tmp_path: Path) -> None:
    trace = train(tmp_path / "a", _sgd(), 6, stages=WITHOUT)
    found, caveats = _computed(trace)
    assert caveats == [NO_DECAY]
    momentum, gradient = (trace.matrix(5, LAYERS[0], one) for one in ("momentum", "gradient"))
    mixed = newton_schulz(gradient + np.float32(0.9) * momentum)
    assert apart(found.matrix(5, LAYERS[0]), mixed) < 1e-5
    true = newton_schulz(trace.matrix(5, LAYERS[0], "update"))
    assert apart(found.matrix(5, LAYERS[0]), true) > 1e-3  # so that it is worth saying


def test_without_decay_no_weight_is_needed(tmp_path: Path) -> None:
    _, caveats = _computed(train(tmp_path / "a", _sgd(weight_decay=0.0), 2, stages=WITHOUT))
    assert caveats == []


def test_maximizing_turns_the_gradient_round(tmp_path: Path) -> None:
    _, caveats = _computed(train(tmp_path / "a", _sgd(maximize=True), 2, stages=ALL))
    assert caveats == [NO_LOOK_AHEAD]


@pytest.mark.parametrize("is_coupled", [True, False])
def test_adams_decay_is_in_the_gradient_where_it_is_not_decoupled(
    tmp_path: Path, is_coupled: bool
) -> None:
    def adam(model: Model) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            model.parameters(), lr=0.01, weight_decay=0.5, decoupled_weight_decay=not is_coupled
        )

    trace = train(tmp_path / "a", adam, 4, stages=ALL)
    found, caveats = _computed(trace)
    assert caveats == []
    m, g, w = (trace.matrix(3, LAYERS[1], one) for one in ("momentum", "gradient", "weight"))
    before = trace.matrix(2, LAYERS[1], "momentum")
    entered = (m - np.float32(0.9) * before) * np.float32(10.0)  # by Adam's own recursion
    assert apart(entered, g + np.float32(0.5 * is_coupled) * w) < 1e-4
    expected = newton_schulz(np.float32(0.9) * m + np.float32(0.1) * entered)
    assert apart(found.matrix(3, LAYERS[1]), expected) < 1e-4


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_a_look_ahead_that_the_rule_lacks_is_said(tmp_path: Path, looks_ahead: bool) -> None:
    def muon(model: Model) -> torch.optim.Optimizer:
        return Muon(list(model.parameters()), lr=0.01, nesterov=looks_ahead)

    trace = train(tmp_path / "a", muon, 2)
    rules = (normuon_rule(), normuon_rule("released"))
    found = optgeom.whatif(trace, rules)
    said = {name: list(one.info.computed["caveats"]) for name, one in found.traces.items()}
    assert said["normuon"] == ([HAS_LOOK_AHEAD] if looks_ahead else [])
    assert said["normuon:released"] == []
    assert any(HAS_LOOK_AHEAD in one for one in found.findings("normuon")) == looks_ahead
