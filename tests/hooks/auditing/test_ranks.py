"""Faults that only two ranks show."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from optgeom.hooks import audit as module
from optgeom.hooks.audit import audit
from optgeom.hooks.auditing import ranks
from optgeom.hooks.auditing.subject import Factory
from optgeom.optim import NorMuon
from tests.hooks.auditing import planted

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        (planted.ShardsOrthogonalized, "sharded"),
        (planted.ShardsRescaled, "sharded"),
        (planted.AxisOfTheShard, "sharded"),
    ],
)
def test_a_fault_of_the_shards_is_found(fault: type[torch.optim.Optimizer], case: str) -> None:
    report = audit(fault)
    assert report["rank_invariant"] is False
    assert "away from one rank" in report.ranks[case]
    assert report.ranks["replicated"] == "the same"
    assert any("two ranks make another update" in one.text for one in report.findings)


def test_a_rank_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "SECONDS", 3.0)
    report = audit(planted.Hangs)
    assert report["rank_invariant"] in (False, "unknown")
    for case in ("sharded", "uneven shards"):
        assert "hangs" in report.ranks[case] or "Timed out" in report.ranks[case]
    assert not multiprocessing.active_children()


def ours(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return NorMuon(params, lr=0.02)


@pytest.mark.parametrize("right", [ours, planted.NorMuon, planted.Muon, torch.optim.Muon])
def test_what_is_right_does_not_depend_on_the_ranks(right: Factory) -> None:
    report = audit(right)
    assert report["rank_invariant"] is True
    assert set(report.ranks) == set(ranks.CASES)
    assert report.is_clean, report.findings


def test_a_closure_is_not_tried_on_ranks() -> None:
    report = audit(lambda params: torch.optim.LBFGS(params, lr=0.1))
    assert "closure" in report.answers["rank_invariant"].measured


def test_one_that_needs_a_process_group_gets_one() -> None:
    report = audit(planted.NeedsAGroup)
    assert report["orthogonalizes"] is True
    assert report.ranks["replicated"] == "the same"
    assert not torch.distributed.is_initialized()


def test_inside_another_job_it_says_that_it_did_not_try() -> None:
    with module._group_of_one():
        report = audit(lambda params: torch.optim.SGD(params, lr=0.1))
    assert report["rank_invariant"] == "unknown"
    assert "another job" in report.answers["rank_invariant"].measured
