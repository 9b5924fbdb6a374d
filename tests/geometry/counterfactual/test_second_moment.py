"""A second moment that is called the run's own is the rule's, and was there to be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import optgeom
from optgeom.optim import NorMuon
from optgeom.rules import normuon as normuon_rule
from optgeom.traces import Cell, TraceWriter
from tests.geometry.counterfactual.training import LAYERS, UP, Model, apart, train

PAPER = (normuon_rule(ns_dtype="float32"),)
SPARSE = {"every": 10, "updates_every": 10, "spectra_every": 10}


def _from(trace: optgeom.Trace) -> list[str | None]:
    """What the second moment rests on, by step, in one layer."""
    grid = trace.words("second_moment_from")
    return [grid.words[code] for code in grid.codes[:, grid.layers.index(UP)]]


def test_adams_is_not_the_rules_whatever_its_group_says(tmp_path: Path) -> None:
    def adam(model: Model) -> torch.optim.Optimizer:
        groups = [{"params": list(model.parameters()), "beta2": 0.95}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

    trace = train(
        tmp_path / "a", adam, 31, stages=("update", "momentum", "second_moment"), **SPARSE
    )
    found = optgeom.whatif(trace, PAPER).traces["normuon"]
    assert _from(found) == ["start", "short", "short", "short"]
    assert set(found.metrics(steps=[10, 20, 30])["status"].to_pylist()) == {"no_second_moment"}


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_it_is_of_what_enters_with_nesterov_or_without(tmp_path: Path, looks_ahead: bool) -> None:
    """The momentum alone enters the paper's rule: a v of look-aheads is of something else."""

    def normuon(model: Model) -> torch.optim.Optimizer:
        return NorMuon(list(model.parameters()), lr=0.01, ns_dtype="float32", nesterov=looks_ahead)

    trace = train(
        tmp_path / "a", normuon, 31, stages=("update", "momentum", "second_moment"), **SPARSE
    )
    found = optgeom.whatif(trace, PAPER, updates=True).traces["normuon"]
    if looks_ahead:
        assert _from(found) == ["start", "short", "short", "short"]
    else:
        assert _from(found) == ["recorded"] * 4
        for name in LAYERS:
            assert apart(found.matrix(30, name), trace.matrix(30, name)) < 1e-5


def _cut(
    folder: Path, trace: optgeom.Trace, stages: tuple[str, ...], lost: tuple[int, str]
) -> optgeom.Trace:
    """A layer of a trace as two ranks write it, of which the second left one matrix out."""
    info, layer = replace(trace.info, attempts=(), world_size=2), trace.layer(UP)
    for rank, rows in enumerate((slice(0, 11), slice(11, 24))):
        with TraceWriter(folder, info, rank=rank, wait=True) as writer:
            for step in trace.steps(UP, None, "updates").tolist():
                for stage in stages:
                    if rank == 1 and (step, stage) == lost:
                        continue
                    key = Cell(step, layer.optimizer, UP, layer.kind, layer.block, stage)
                    block = np.ascontiguousarray(trace.matrix(step, UP, stage)[rows])
                    writer.update(key, block, row_start=rows.start)
                writer.end_step(step)
    return optgeom.open_trace(folder)


def test_one_that_cannot_be_read_is_not_begun_at_zero(tmp_path: Path) -> None:
    stages = ("ns_input", "second_moment")
    whole = train(tmp_path / "whole", "normuon", 31, stages=("update", *stages), **SPARSE)
    found = optgeom.whatif(_cut(tmp_path / "a", whole, stages, (20, "second_moment")), PAPER)
    computed = found.traces["normuon"]
    status = [computed.metrics(steps=step)["status"].to_pylist() for step in (0, 10, 20, 30)]
    assert status == [["ok"], ["ok"], ["second_moment_incomplete"], ["ok"]]
    assert computed.metrics(steps=20)["neuron_norm_cv"].to_pylist() == [None]
    true = optgeom.whatif(whole, PAPER).traces["normuon"].metrics(layers=UP)["neuron_norm_cv"]
    for at, step in ((1, 10), (3, 30)):
        value = computed.metrics(steps=step)["neuron_norm_cv"][0].as_py()
        assert value == pytest.approx(true[at].as_py(), rel=1e-5)
    said = "1 of 4: a matrix that the second moment needs is not complete"
    assert any(said in one for one in found.findings("normuon"))


def test_one_that_follows_from_the_step_before_goes_on(tmp_path: Path) -> None:
    """From the run's first step on it is known without the run's own."""
    stages = ("ns_input", "second_moment")
    whole = train(tmp_path / "whole", "normuon", 4, stages=("update", *stages))
    trace = _cut(tmp_path / "a", whole, stages, (2, "second_moment"))
    computed = optgeom.whatif(trace, PAPER, updates=True).traces["normuon"]
    for step in range(4):
        assert apart(computed.matrix(step, UP), whole.matrix(step, UP)) < 1e-5


def test_an_incomplete_matrix_costs_its_own_step_alone(tmp_path: Path) -> None:
    """Of a rule that keeps nothing from one step to the next."""
    short = train(tmp_path / "whole", "muon", 4)
    trace = _cut(tmp_path / "a", short, ("ns_input",), (1, "ns_input"))
    computed = optgeom.whatif(trace, "muon").traces["muon"]
    assert computed.metrics()["status"].to_pylist() == ["ok", "incomplete", "ok", "ok"]


def test_a_runs_own_young_second_moment_stays_out_of_the_medians(tmp_path: Path) -> None:
    """Of a rule without one too: what it is compared with was evened out."""
    trace = train(tmp_path / "a", "normuon", 64)
    found = optgeom.whatif(trace, "muon")
    late = optgeom.whatif(trace, "muon", steps=slice(59, 64), out=tmp_path / "late")
    for one, other in zip(found.rows("muon", "layer"), late.rows("muon", "layer"), strict=True):
        assert (one.computed, one.young, one.compared) == (64, 59, 5)
        assert other.young == 0
        assert one.neuron_norm_cv_applied == other.neuron_norm_cv_applied
        assert one.neuron_norm_cv_computed == other.neuron_norm_cv_computed
    (said,) = (one for one in found.findings("muon") if one.startswith("In no median"))
    assert "are 177 cells of the run's first steps: the second moment of its own rule" in said
    assert "In no median" not in "".join(late.findings("muon"))
    early = optgeom.whatif(trace, "muon", steps=0, out=tmp_path / "early")
    assert not early.answers
    assert early.findings("muon")[-1].endswith(f"To capture what it needs: {early.line}")
