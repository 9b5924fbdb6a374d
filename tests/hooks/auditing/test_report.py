"""The report: expectations, JSON, errors at the place of the call, and harmlessness."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optgeom
from optgeom.hooks.auditing.report import AuditReport, ExpectationFailed
from optgeom.hooks.auditing.subject import AuditError
from tests.hooks.auditing import planted

Alone = Callable[..., AuditReport]


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return optgeom.audit(planted.NorMuon, ranks=False)


def test_an_expectation_that_is_met_says_nothing(report: AuditReport) -> None:
    report.expect(neuron_axis="rows", momentum=0.95, singular_value_band=[0.68, 1.13])


def test_one_that_is_not_says_what_was_found_and_how(report: AuditReport) -> None:
    with pytest.raises(ExpectationFailed) as raised:
        report.expect(neuron_axis="columns", nesterov=True, momentum=0.95)
    said = str(raised.value)
    assert "neuron_axis: expected 'columns', found 'rows'" in said
    assert "nesterov: expected True, found False" in said
    assert "momentum:" not in said
    assert isinstance(raised.value, AssertionError)


def test_numbers_may_differ_by_what_was_measured_and_no_more(report: AuditReport) -> None:
    report.expect(second_moment_decay=0.9505)
    for wrong in ({"second_moment_decay": 0.96}, {"momentum": 0.9}, {"rms": 0.25}):
        with pytest.raises(ExpectationFailed):
            report.expect(**wrong)


def test_true_is_no_number(report: AuditReport) -> None:
    with pytest.raises(ExpectationFailed):
        report.expect(orthogonalizes=1)


def test_a_question_that_is_not_asked_names_the_nearest(report: AuditReport) -> None:
    with pytest.raises(AuditError, match="neuron_axis"):
        report.expect(neuron_axes="rows")


def test_json_holds_every_answer_and_how_it_was_found(report: AuditReport) -> None:
    told = json.loads(json.dumps(report.to_json()))
    assert {
        "orthogonalizes",
        "polynomial",
        "singular_value_band",
        "normalization",
        "neuron_axis",
        "rescale",
        "shape_factor",
        "momentum",
        "nesterov",
        "second_moment_decay",
        "weight_decay",
        "scale_invariant",
        "writes_gradient",
        "rank_invariant",
        "findings",
    } <= set(told)
    assert told["rank_invariant"] == "unknown"
    assert set(told["measured"]) == set(report.answers)
    assert len(told["curve"]["in"]) == len(told["curve"]["out"]) > 100
    assert told["gradients"]["zero"] == "no update"


def test_the_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    before = random.getstate()
    optgeom.audit(planted.NorMuon, ranks=False)
    assert torch.equal(torch.rand(4), wanted)
    assert random.getstate() == before


def test_random_states_that_the_optimizer_draws_from_are_put_back() -> None:
    class Draws(planted.NorMuon):
        def rescale(self, update: torch.Tensor) -> torch.Tensor:
            random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
            return super().rescale(update)

    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    optgeom.audit(Draws, ranks=False)
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    assert before == after


def test_threads_that_audit_at_once_leave_everything_as_it_was() -> None:
    filters = list(warnings.filters)
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: optgeom.audit(planted.Muon, ranks=False), range(3)))
    assert reports[0] == reports[1] == reports[2]
    assert torch.equal(torch.rand(2), wanted)
    assert warnings.filters == filters


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller_do_not_matter(mode: Callable[[], Any], report: AuditReport) -> None:
    with mode():
        assert optgeom.audit(planted.NorMuon, ranks=False) == report


def test_a_default_device_of_the_caller_does_not_matter(report: AuditReport) -> None:
    torch.set_default_device("meta")
    try:
        assert optgeom.audit(planted.NorMuon, ranks=False) == report
    finally:
        torch.set_default_device(None)


def test_it_says_the_same_twice(report: AuditReport) -> None:
    assert optgeom.audit(planted.NorMuon, ranks=False) == report


def test_what_cannot_be_made_is_said() -> None:
    def broken(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        raise TypeError("lr is missing")

    with pytest.raises(AuditError, match="lr is missing"):
        optgeom.audit(broken)
    with pytest.raises(AuditError, match="no step"):
        optgeom.audit(lambda params: params)
    with pytest.raises(AuditError, match="lr is 0"):
        optgeom.audit(lambda params: torch.optim.SGD(params, lr=0.0))
    with pytest.raises(AuditError, match="lr is nan"):
        optgeom.audit(lambda params: torch.optim.SGD(params, lr=float("nan")))


def test_what_cannot_step_is_said() -> None:
    class Broken(planted.NorMuon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for this device")

    with pytest.raises(AuditError, match="no kernel for this device"):
        optgeom.audit(Broken)


def test_a_step_that_fails_now_and_then_leaves_unknowns(alone: Alone) -> None:
    class Wide(planted.NorMuon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            if matrix.size(0) < matrix.size(1):
                raise RuntimeError("only tall matrices")
            return super().orthogonalize(matrix)

    report = alone(Wide)
    assert report["neuron_axis"] == "unknown"
    assert report["momentum"] == 0.95


def test_bfloat16_alone_is_enough(alone: Alone) -> None:
    class Narrow(planted.NorMuon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            if matrix.dtype != torch.bfloat16:
                raise TypeError("bfloat16 only")
            return super().orthogonalize(matrix)

    report = alone(Narrow)
    report.expect(orthogonalizes=True, polynomial="jordan", neuron_axis="rows", momentum=0.95)
    assert any("bfloat16 weights were used" in one.text for one in report.findings)


def test_an_object_without_groups_is_audited_too(alone: Alone) -> None:
    class Plain:
        """No torch.optim.Optimizer: a list of parameters, and a step."""

        def __init__(self, params: list[nn.Parameter]) -> None:
            self.params = params

        @torch.no_grad()
        def step(self) -> None:
            for p in self.params:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.1)

    alone(Plain).expect(orthogonalizes=False, normalization="none", momentum=0.0, weight_decay=0.0)


def test_a_step_that_leaves_the_process_is_a_step_that_failed() -> None:
    class Leaves(planted.NorMuon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            raise SystemExit("not here")

    with pytest.raises(AuditError, match="not here"):
        optgeom.audit(Leaves)
