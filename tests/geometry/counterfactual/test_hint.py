"""The line that says how to capture what is missing captures it, as it is printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import optgeom
from optgeom.geometry.counterfactual.rule import Rule
from optgeom.optim import Muon, NorMuon
from optgeom.rules import normuon, rule_named
from tests.geometry.counterfactual.training import Model, gradients, train

Make = Callable[[Model], torch.optim.Optimizer]


def _muon(model: Model) -> torch.optim.Optimizer:
    return Muon(list(model.parameters()), lr=0.01)


def _normuon(model: Model) -> torch.optim.Optimizer:
    return NorMuon(list(model.parameters()), lr=0.01)


def _adamw(model: Model) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("make", "rule", "steps", "known"),
    [
        (_muon, normuon(), 60, "start"),  # the burst's last step is the first with a median
        (_adamw, normuon(), 60, "start"),
        (_muon, normuon(beta2=0.99), 2, "start"),
        (_normuon, normuon(), 2, "recorded"),
        (_adamw, rule_named("muon"), 1, ""),
    ],
)
def test_it_works_as_printed(
    tmp_path: Path, make: Make, rule: Rule, steps: int, known: str
) -> None:
    stages = ("update", "momentum")
    found = optgeom.whatif(train(tmp_path / "a", make, 1, stages=stages), (rule,))
    if rule.second_moment is not None:
        assert not found.answers
        (said,) = (one for one in found.findings(rule.name) if found.line in one)
        assert said.endswith(found.line)
    model = Model()
    optimizer, out = make(model), tmp_path / "captured"
    names = {"optgeom": optgeom, "model": model, "optimizer": optimizer, "out": out}
    with eval(found.line, names):  # with the defaults of everything that it does not say
        for step in range(steps):
            for one, made in zip(model.parameters(), gradients(model, step).values(), strict=True):
                one.grad = made
            optimizer.step()
    captured = optgeom.open_trace(out)
    again = optgeom.whatif(captured, (rule,))
    assert again.answers == (steps == rule_steps(rule))
    computed = again.traces[rule.name]
    if known:
        assert set(computed.metrics()["second_moment_from"].to_pylist()) == {known}
    reach = 1 if known == "recorded" else steps  # one step in a thousand, or all of a burst
    assert computed.steps().tolist() == list(range(reach))


def rule_steps(rule: Rule) -> int:
    """How many steps it takes until a median is of something."""
    return 1 if rule.second_moment is None else rule.second_moment.steps_needed
