"""Real optimizers: what their documentation says is what the audit finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import nn

from optgeom.hooks.auditing.report import AuditReport
from optgeom.optim import FAMILIES, Muon, NorMuon

Alone = Callable[..., AuditReport]
Parameters = list[nn.Parameter]

NORMUON: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "polynomial": "jordan",
        "neuron_axis": "rows",
        "rescale": "rms",
        "rms": 0.2,
        "shape_factor": "none",
        "nesterov": False,
        "momentum_form": "ema",
        "weight_decay": 0.1,
    },
    "released": {
        "polynomial": "jordan",
        "neuron_axis": "rows",
        "rescale": "norm_before",
        "rms": None,
        "shape_factor": "original",
        "nesterov": True,
        "momentum_form": "ema",
        "weight_decay": 0.0,
    },
    "dion": {
        "polynomial": "polar_express",
        "neuron_axis": "rows",
        "rescale": "norm_before",
        "rms": None,
        "shape_factor": "spectral",
        "nesterov": False,
        "momentum_form": "heavy_ball",
        "weight_decay": 0.01,
    },
    "larger-axis": {
        "polynomial": "polar_express",
        "neuron_axis": "larger",
        "rescale": "norm_before",
        "rms": None,
        "shape_factor": "original",
        "nesterov": True,
        "momentum_form": "ema",
        "weight_decay": 0.0,
    },
}

EVERY_NORMUON = {
    "orthogonalizes": True,
    "ns_steps": 5,
    "normalization": "row",
    "momentum": 0.95,
    "second_moment_decay": 0.95,
    "scale_invariant": True,
    "writes_gradient": False,
}


def test_every_family_has_its_row() -> None:
    assert set(NORMUON) == set(FAMILIES)


@pytest.mark.parametrize("family", NORMUON)
def test_our_normuon(family: str, alone: Alone) -> None:
    report = alone(lambda params: NorMuon(params, lr=0.02, family=family))
    report.expect(**EVERY_NORMUON, **NORMUON[family])
    assert report.is_clean, report.findings


@pytest.mark.parametrize(
    ("coefficients", "scale"),
    [
        *product(
            ("jordan", "polar_express", "simple"), ("original", "match_rms", "spectral", "none")
        )
    ],
)
def test_our_muon(coefficients: str, scale: str, alone: Alone) -> None:
    report = alone(lambda params: Muon(params, lr=0.02, coefficients=coefficients, scale=scale))
    report.expect(
        orthogonalizes=True,
        polynomial=coefficients,
        ns_steps=12 if coefficients == "simple" else 5,
        normalization="none",
        neuron_axis="none",
        rescale="none",
        shape_factor=scale,
        momentum=0.95,
        nesterov=True,
        second_moment_decay=None,
        weight_decay=0.1,
        decay_form="decoupled",
    )
    assert report.is_clean, report.findings


@pytest.mark.parametrize(
    ("adjust", "factor"),
    [(None, "original"), ("original", "original"), ("match_rms_adamw", "match_rms")],
)
def test_torch_muon(adjust: str | None, factor: str, alone: Alone) -> None:
    report = alone(lambda params: torch.optim.Muon(params, lr=0.02, adjust_lr_fn=adjust))
    report.expect(
        orthogonalizes=True,
        polynomial="jordan",
        ns_steps=5,
        normalization="none",
        shape_factor=factor,
        momentum=0.95,
        momentum_form="ema",
        nesterov=True,
        weight_decay=0.1,
        decay_form="decoupled",
        scale_invariant=True,
        writes_gradient=False,
    )
    assert report.findings == ()


def adaptive(**more: Any) -> dict[str, Any]:
    return {
        "orthogonalizes": False,
        "normalization": "elementwise",
        "scale_invariant": True,
        **more,
    }


SGD = {"orthogonalizes": False, "normalization": "none", "scale_invariant": False}
UNKNOWN = "unknown"

TORCH: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "ASGD": ({}, {**SGD, "momentum": 0.0}),
    "Adadelta": ({}, {"orthogonalizes": False, "normalization": "elementwise", "momentum": 0.0}),
    # rows and columns together, and no step that is not bounded by the weights
    "Adafactor": ({}, {"orthogonalizes": UNKNOWN, "normalization": UNKNOWN, "momentum": 0.0}),
    # squares are summed and never forgotten
    "Adagrad": ({}, adaptive(momentum=0.0, second_moment_decay=1.0)),
    "Adam": (
        {"weight_decay": 0.1},
        adaptive(momentum=0.9, second_moment_decay=0.999, decay_form="in_gradient"),
    ),
    "AdamW": (
        {"betas": (0.8, 0.95)},
        adaptive(
            momentum=0.8,
            momentum_form="ema",
            nesterov=False,
            second_moment_decay=0.95,
            weight_decay=0.01,
            decay_form="decoupled",
        ),
    ),
    # a maximum, not a mean of squares
    "Adamax": ({}, adaptive(momentum=0.9, second_moment_decay=UNKNOWN)),
    # its first step goes down the gradient; the next ones depend on what it has seen
    "LBFGS": ({}, {"orthogonalizes": False, "normalization": "none", "momentum": UNKNOWN}),
    "Muon": ({}, {"orthogonalizes": True}),
    # Dozat's schedule is no constant coefficient
    "NAdam": ({}, adaptive(momentum=UNKNOWN, nesterov=UNKNOWN)),
    # its first five steps are momentum alone
    "RAdam": ({}, {**SGD, "momentum": 0.9}),
    "RMSprop": ({}, adaptive(momentum=0.0, second_moment_decay=0.99)),
    # the sign of two gradients
    "Rprop": ({}, adaptive(momentum=UNKNOWN)),
    "SGD": (
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {
            **SGD,
            "momentum": 0.9,
            "nesterov": True,
            "momentum_form": "heavy_ball",
            "weight_decay": 0.1,
            "decay_form": "in_gradient",
        },
    ),
    # entries without a gradient keep their moments
    "SparseAdam": ({}, adaptive(momentum=UNKNOWN)),
}


def test_every_optimizer_of_torch_has_its_row() -> None:
    theirs = {
        name
        for name in torch.optim.__all__
        if isinstance(getattr(torch.optim, name), type) and name != "Optimizer"
    }
    assert theirs == set(TORCH)


@pytest.mark.parametrize("name", TORCH)
def test_torch(name: str, alone: Alone) -> None:
    settings, wanted = TORCH[name]
    made = getattr(torch.optim, name)
    report = alone(lambda params: made(params, lr=0.01, **settings))
    report.expect(**wanted)
    assert not [one for one in report.findings if one.severity == "severe"]


def marked(made: Callable[..., Any]) -> Callable[[Parameters], Any]:
    return lambda params: made([{"params": params, "use_muon": True}])


def test_pytorch_optimizer_muon(alone: Alone) -> None:
    report = alone(marked(pytorch_optimizer.Muon))
    report.expect(
        orthogonalizes=True,
        polynomial="jordan",
        normalization="none",
        shape_factor="original",
        momentum=0.95,
        nesterov=True,
        writes_gradient=True,
    )
    assert report.is_clean, report.findings


def test_pytorch_optimizer_normuon(alone: Alone) -> None:
    report = alone(marked(pytorch_optimizer.NorMuon))
    report.expect(
        **{**EVERY_NORMUON, "writes_gradient": True},
        neuron_axis="rows",
        rescale="norm_before",
        shape_factor="original",
        nesterov=True,
    )
    assert report.is_clean, report.findings


def test_pytorch_optimizer_adamuon(alone: Alone) -> None:
    report = alone(marked(pytorch_optimizer.AdaMuon))
    report.expect(
        orthogonalizes=True,
        polynomial=UNKNOWN,
        normalization="elementwise",
        neuron_axis="none",
        rescale="rms",
        momentum=0.9,
        second_moment_decay=0.95,
    )
    assert "signs" in report.answers["polynomial"].measured


def test_pytorch_optimizer_soap_is_no_rule_that_is_known(alone: Alone) -> None:
    report = alone(lambda params: pytorch_optimizer.SOAP(params, lr=0.01))
    report.expect(
        orthogonalizes=UNKNOWN, normalization=UNKNOWN, momentum=UNKNOWN, decay_form="decoupled"
    )
    assert "away" in report.answers["orthogonalizes"].measured


def test_lion_weighs_the_newest_gradient_by_a_rule_of_its_own(alone: Alone) -> None:
    report = alone(lambda params: pytorch_optimizer.Lion(params, lr=0.01))
    report.expect(normalization="elementwise", momentum=UNKNOWN, nesterov=UNKNOWN)
    # b1 (1 - b2) / (1 - b1), and b2 from there on
    assert (
        "weighs 0.09 of it; further back, each weighs 0.99" in report.answers["momentum"].measured
    )
