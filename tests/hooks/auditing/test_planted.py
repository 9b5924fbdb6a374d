"""Faults that were seen in the wild, each planted in a NorMuon that is right otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch

from optgeom.hooks.auditing.report import AuditReport
from tests.hooks.auditing import planted

Alone = Callable[..., AuditReport]

FAULTS = {
    "SilentSGDMuon": ("severe", "does not orthogonalize"),
    "ScaledTwice": ("severe", "original, sqrt(max(1, m/n)), applied twice"),
    "ScaleUpsideDown": ("severe", "match_rms, 0.2*sqrt(max(m, n)), upside down"),
    "NoRescale": ("severe", "not rescaled"),
    "DecayForgotten": ("severe", "weight_decay=0.1 is set, and the weights do not decay"),
    "DecaySquared": ("warning", "neither lr * weight_decay nor weight_decay"),
    "SmallerAxis": ("warning", "column on tall matrices, row on wide ones"),
    "LargerAxis": ("warning", "reduced to the signs"),
    "ColumnsNorMuon": ("warning", "right only for weights that are kept transposed"),
    "NoNeuronsNorMuon": ("severe", "does not normalize neurons"),
    "ElementwiseBefore": ("warning", "elementwise normalization, then orthogonalization"),
    "UnitRows": ("warning", "keeps no second moment"),
    "NaNAtZero": ("severe", "a zero gradient: NaN"),
    "WritesGradient": ("note", "overwrites p.grad"),
    "WrongMomentum": ("warning", "momentum=0.95, measured is 0.9"),
    "ThreeSteps": ("warning", "ns_steps=5, measured is 3"),
    "Contiguous": ("severe", "not contiguous"),
    "Ascent": ("severe", "goes up the gradient"),
    "DecayGrows": ("severe", "the weights grow"),
    "DecayOfSigns": ("warning", "by no known rule"),
    "NaNOnWide": ("severe", "wide matrices: the update is not finite"),
    "Still": ("severe", "moved nothing"),
    "ColumnsOfSquare": ("warning", "column on square ones"),
    "OneSecondMoment": ("warning", "depends on the other matrices"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_and_nothing_else(name: str, alone: Alone) -> None:
    severity, text = FAULTS[name]
    report = alone(getattr(planted, name))
    told = [(finding.severity, finding.text) for finding in report.findings]
    assert any(kind == severity and text in said for kind, said in told), told
    others = [said for kind, said in told if kind != "note" and text not in said]
    allowed = {
        "SmallerAxis": "reduced to the signs",
        "ColumnsNorMuon": "reduced to the signs",
        "WritesGradient": "",
        "UnitRows": "beta2=0.95, measured is 0.0",
        "ElementwiseBefore": "",
        "NaNAtZero": "a huge gradient: NaN",
        "Still": "the weights do not decay",
    }
    assert [said for said in others if name not in allowed or allowed[name] not in said] == []


def test_the_optimizer_that_they_are_planted_in_is_clean(alone: Alone) -> None:
    for right in (planted.NorMuon, planted.Muon):
        assert alone(right).findings == ()


def test_its_answers(alone: Alone) -> None:
    alone(planted.NorMuon).expect(
        orthogonalizes=True,
        polynomial="jordan",
        ns_steps=5,
        normalization="row",
        neuron_axis="rows",
        rescale="rms",
        rms=0.2,
        shape_factor="none",
        momentum=0.95,
        momentum_form="ema",
        nesterov=False,
        second_moment_decay=0.95,
        weight_decay=0.1,
        decay_form="decoupled",
        scale_invariant=True,
        writes_gradient=False,
    )


def test_sgd_under_the_name_of_muon_is_described_as_what_it_is(alone: Alone) -> None:
    report = alone(planted.SilentSGDMuon)
    assert report["orthogonalizes"] is False
    assert report["scale_invariant"] is False
    assert report["singular_value_band"] is None


@pytest.mark.parametrize("decay", [0.5, 0.8, 0.9, 0.99, 0.999])
def test_any_second_moment_is_measured(decay: float, alone: Alone) -> None:
    report = alone(lambda params: planted.NorMuon(params, beta2=decay))
    assert report["second_moment_decay"] == pytest.approx(decay, rel=2e-3)
    assert report.is_clean


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_any_momentum_is_measured(momentum: float, alone: Alone) -> None:
    report = alone(lambda params: planted.NorMuon(params, momentum=momentum))
    assert report["momentum"] == pytest.approx(momentum, abs=1e-4)
    assert report.is_clean


def test_a_scale_that_no_paper_has_is_unknown_with_its_value(alone: Alone) -> None:
    class Half(planted.Muon):
        def factor(self, rows: int, cols: int) -> float:
            return 0.5 * max(1.0, rows / cols) ** 0.5

    report = alone(Half)
    assert report["shape_factor"] == "unknown"
    assert re.search(
        r"0\.(5|49\d) \* sqrt\(max\(1, m/n\)\)", report.answers["shape_factor"].measured
    )


def test_a_polynomial_that_no_paper_has_is_unknown_with_its_distance(alone: Alone) -> None:
    class Own(planted.Muon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
            values = (values / values.norm()) ** 0.2
            return ((left * values) @ right).float()

    report = alone(Own)
    assert report["orthogonalizes"] is True
    assert report["polynomial"] == "unknown"
    assert "away from" in report.answers["polynomial"].measured
    low, high = report["singular_value_band"]
    assert high / low == pytest.approx(97**0.2, rel=0.1)


def test_a_square_root_is_neither(alone: Alone) -> None:
    class Root(planted.Muon):
        def orthogonalize(self, matrix: torch.Tensor) -> torch.Tensor:
            left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
            return ((left * (values / values.norm()).sqrt()) @ right).float()

    assert alone(Root)["orthogonalizes"] == "unknown"


def test_a_momentum_that_is_warmed_up_is_unknown_with_both_values(alone: Alone) -> None:
    report = alone(planted.WarmedUp)
    assert report["momentum"] == "unknown"
    assert "after 40 steps" in report.answers["momentum"].measured
    assert report.is_clean


def test_a_rule_that_nobody_has_is_unknown(alone: Alone) -> None:
    class NorMuonOfSquares(planted.RootOfNothing):
        pass

    report = alone(NorMuonOfSquares)
    assert report["normalization"] == "unknown"
    assert any("is not known" in one.text for one in report.findings)


@pytest.mark.parametrize(("lr", "decay"), [(0.02, 1.2), (0.1, 1.0), (10.0, 0.1), (1e-8, 0.1)])
def test_neither_a_heavy_decay_nor_an_odd_rate_misleads(
    lr: float, decay: float, alone: Alone
) -> None:
    report = alone(lambda params: planted.NorMuon(params, lr=lr, weight_decay=decay))
    report.expect(
        neuron_axis="rows",
        rescale="rms",
        momentum=0.95,
        second_moment_decay=0.95,
        weight_decay=decay,
        decay_form="decoupled",
    )
    assert report.findings == ()


def test_settings_of_an_adamw_inside_are_not_the_matrices(alone: Alone) -> None:
    class Dion(planted.NorMuon):
        """Groups of microsoft/dion hold the betas of its AdamW too."""

        def __init__(self, params: Any) -> None:
            super().__init__(params)
            for group in self.param_groups:
                group |= {"mu": 0.95, "muon_beta2": 0.95, "beta1": 0.9, "beta2": 0.999}
            self.own = {"momentum": 0.95, "beta2": 0.95}

        def momentum(self, gradient: Any, state: Any, group: Any) -> Any:
            return super().momentum(gradient, state, {**group, **self.own})

        def second_moment(self, square: Any, state: Any, group: Any) -> Any:
            return super().second_moment(square, state, {**group, **self.own})

    assert alone(Dion).findings == ()


def test_the_weight_of_the_newest_gradient_is_told_from_a_momentum(alone: Alone) -> None:
    report = alone(lambda params: pytorch_optimizer.SCION(params, lr=0.01, momentum=0.1))
    assert report["momentum"] == 0.9
    assert report.is_clean
    assert any("weight of the newest gradient" in one.text for one in report.findings)


def test_maximize_is_what_it_says(alone: Alone) -> None:
    report = alone(lambda params: torch.optim.SGD(params, lr=0.1, maximize=True))
    assert report.is_clean
    assert [one.text for one in report.findings] == [
        "its update goes up the gradient, as maximize says"
    ]
