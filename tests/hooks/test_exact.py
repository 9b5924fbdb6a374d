"""Every optimizer's recorded update against a float64 twin that is fed the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from optgeom.optim import FAMILIES, Muon, NorMuon

LR = 1e-2
STEPS = 4
SINGLE = {"foreach": False}
FOREACH = {"foreach": True}
FUSED = {"fused": True}


class OtherAdam(torch.optim.Adam):
    """A class of its own might have a rule of its own: no formula is taken for granted."""


@dataclass(frozen=True)
class Case:
    """An optimizer, how its update is read, and the decay that its published formula states."""

    cls: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = "dispatch"
    form: str = "none"
    decay: Callable[[dict[str, Any], dict[str, Any]], float] = lambda group, state: 0.0
    tolerance: float = 2e-5

    def build(self, params: Any) -> Any:
        return self.cls(params, **{"lr": LR, **self.settings})


def decoupled(group: dict[str, Any], state: dict[str, Any]) -> float:
    return float(group["lr"]) * group["weight_decay"]


def asgd(group: dict[str, Any], state: dict[str, Any]) -> float:
    return group["lambd"] * float(state["eta"]) if state else group["lambd"] * group["lr"]


optim = torch.optim
CASES: dict[str, Case] = {
    "sgd": Case(optim.SGD, SINGLE),
    "sgd-foreach": Case(optim.SGD, FOREACH),
    "sgd-momentum": Case(optim.SGD, {"momentum": 0.9, **SINGLE}),
    "sgd-nesterov": Case(optim.SGD, {"momentum": 0.9, "nesterov": True, **SINGLE}),
    "sgd-dampening": Case(optim.SGD, {"momentum": 0.9, "dampening": 0.5, **FOREACH}),
    "sgd-decay": Case(optim.SGD, {"weight_decay": 0.1, **SINGLE}, form="in_gradient"),
    "sgd-decay-momentum-foreach": Case(
        optim.SGD, {"weight_decay": 0.1, "momentum": 0.9, **FOREACH}, form="in_gradient"
    ),
    "sgd-maximize": Case(optim.SGD, {"maximize": True, **SINGLE}),
    "sgd-tensor-lr": Case(optim.SGD, {"lr": torch.tensor(LR), **SINGLE}),
    "adam": Case(optim.Adam, SINGLE),
    "adam-foreach": Case(optim.Adam, FOREACH),
    "adam-decay": Case(optim.Adam, {"weight_decay": 0.1, **SINGLE}, form="in_gradient"),
    "adam-decay-foreach": Case(optim.Adam, {"weight_decay": 0.1, **FOREACH}, form="in_gradient"),
    "adam-amsgrad": Case(optim.Adam, {"amsgrad": True, **SINGLE}),
    "adam-tensor-lr": Case(optim.Adam, {"lr": torch.tensor(LR), **SINGLE}),
    "adamw": Case(optim.AdamW, SINGLE, form="decoupled", decay=decoupled),
    "adamw-foreach": Case(optim.AdamW, FOREACH, form="decoupled", decay=decoupled),
    "adamw-amsgrad-foreach": Case(
        optim.AdamW, {"amsgrad": True, **FOREACH}, form="decoupled", decay=decoupled
    ),
    "adamw-maximize": Case(
        optim.AdamW, {"maximize": True, **SINGLE}, form="decoupled", decay=decoupled
    ),
    "nadam": Case(optim.NAdam, SINGLE),
    "nadam-foreach": Case(optim.NAdam, FOREACH),
    "nadam-decoupled": Case(
        optim.NAdam,
        {"weight_decay": 0.1, "decoupled_weight_decay": True, **SINGLE},
        form="decoupled",
        decay=decoupled,
    ),
    "radam": Case(optim.RAdam, SINGLE),
    "radam-foreach": Case(optim.RAdam, FOREACH),
    "radam-decay": Case(optim.RAdam, {"weight_decay": 0.1, **SINGLE}, form="in_gradient"),
    "adamax": Case(optim.Adamax, SINGLE),
    "adamax-foreach": Case(optim.Adamax, FOREACH),
    "adagrad": Case(optim.Adagrad, SINGLE),
    "adagrad-foreach": Case(optim.Adagrad, {"weight_decay": 0.1, **FOREACH}, form="in_gradient"),
    "adadelta": Case(optim.Adadelta, {"lr": 1.0, **SINGLE}),
    "adadelta-foreach": Case(optim.Adadelta, {"lr": 1.0, **FOREACH}),
    "rmsprop": Case(optim.RMSprop, SINGLE),
    "rmsprop-centered-momentum-foreach": Case(
        optim.RMSprop, {"centered": True, "momentum": 0.9, **FOREACH}, tolerance=1e-4
    ),
    "asgd": Case(optim.ASGD, SINGLE, form="decoupled", decay=asgd),
    # the same rule in another order: here the decay is added to the gradient
    "asgd-foreach": Case(optim.ASGD, FOREACH, form="in_gradient"),
    "rprop": Case(optim.Rprop, SINGLE),
    "rprop-foreach": Case(optim.Rprop, FOREACH),
    "adafactor": Case(
        optim.Adafactor, {"weight_decay": 0.1, **SINGLE}, form="decoupled", decay=decoupled
    ),
    "adafactor-foreach": Case(optim.Adafactor, FOREACH),
    "sgd-fused": Case(optim.SGD, {"momentum": 0.9, **FUSED}, "state"),
    "sgd-fused-plain": Case(optim.SGD, {"maximize": True, **FUSED}, "state"),
    "sgd-fused-nesterov": Case(
        optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, **FUSED},
        "state",
        "in_gradient",
    ),
    "adam-fused": Case(optim.Adam, FUSED, "state"),
    "adam-fused-amsgrad-decay": Case(
        optim.Adam, {"amsgrad": True, "weight_decay": 0.1, **FUSED}, "state", "in_gradient"
    ),
    "adamw-fused": Case(optim.AdamW, FUSED, "state", "decoupled", decoupled),
    "adamw-fused-maximize": Case(
        optim.AdamW, {"maximize": True, **FUSED}, "state", "decoupled", decoupled
    ),
    "adagrad-fused": Case(optim.Adagrad, FUSED, "state"),
    "adagrad-fused-decay": Case(
        optim.Adagrad, {"weight_decay": 0.1, "lr_decay": 0.1, **FUSED}, "state", "in_gradient"
    ),
    "fused-of-another-class": Case(OtherAdam, FUSED, "difference", "unknown"),
    **{
        f"normuon-{family}": Case(
            NorMuon,
            {"family": family, "ns_dtype": "float32"},
            source="tap",
            form="decoupled" if FAMILIES[family].weight_decay else "none",
            decay=decoupled,
            tolerance=2e-4,
        )
        for family in FAMILIES
    },
    **{
        f"muon-{scale}": Case(
            Muon,
            {"scale": scale, "ns_dtype": "float32"},
            source="tap",
            form="decoupled",
            decay=decoupled,
            tolerance=2e-4,
        )
        for scale in ("match_rms", "original", "spectral")
    },
    "muon-no-decay": Case(
        Muon, {"weight_decay": 0.0, "ns_dtype": "float32"}, source="tap", tolerance=2e-4
    ),
}


def rebuilt(row: dict[str, Any], update: Tensor, before: Tensor) -> Tensor:
    return (1.0 - row["decay"]) * before.double() - row["lr"] * update.double()


def rows_of(trace: Any, stage: str = "update") -> dict[tuple[int, str], dict[str, Any]]:
    rows = trace.metrics(stages=[stage]).to_pylist()
    return {(row["step"], row["layer"]): row for row in rows}


@pytest.mark.parametrize("name", CASES)
def test_the_recorded_update_is_the_twins(name: str, bag, train, watched, opened) -> None:
    case = CASES[name]
    model, twin = bag(), bag().double()
    optimizer, reference = case.build(model.parameters()), case.build(twin.parameters())
    expected: dict[tuple[int, str], Tensor] = {}
    weights: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    with watched(model, optimizer):
        for step in range(STEPS):
            group = reference.param_groups[0]
            decays = {
                layer: case.decay(group, dict(reference.state[p]))
                for layer, p in twin.named_parameters()
            }
            before = {n: p.detach().clone() for n, p in twin.named_parameters()}
            stored = {n: p.detach().clone() for n, p in model.named_parameters()}
            train(twin, reference, [step])
            train(model, optimizer, [step])
            for layer, p in twin.named_parameters():
                moved = p.detach() - (1 - decays[layer]) * before[layer]
                expected[step, layer] = -moved / float(group["lr"])
                after = model.get_parameter(layer).detach().clone()
                weights[step, layer] = stored[layer], after
    trace = opened()
    rows = rows_of(trace)
    assert rows.keys() == expected.keys()
    for (step, layer), row in rows.items():
        assert (row["source"], row["decay_form"], row["status"]) == (case.source, case.form, "ok")
        update = torch.from_numpy(trace.matrix(step, layer))
        truth, (before, after) = expected[step, layer], weights[step, layer]
        ulp = torch.finfo(torch.float32).eps * max(before.abs().max(), after.abs().max()).item()
        noise = 2 * ulp / row["lr"] if case.source == "difference" else 0.0
        assert (update - truth).abs().max() <= case.tolerance * truth.abs().max() + noise
        # the row alone carries the weights from before the step to after it
        assert (rebuilt(row, update, before) - after).abs().max() <= 4 * ulp


def test_torch_muon_is_read_from_its_operands(bag, train, watched, opened) -> None:
    # its bf16 iteration has no float64 twin: one whose weights are zero shows the bare update
    settings = {"lr": LR, "weight_decay": 0.1}
    model, twin = bag(), bag()
    optimizer = torch.optim.Muon(model.parameters(), **settings)
    reference = torch.optim.Muon(twin.parameters(), **settings)
    expected = {}
    with watched(model, optimizer):
        for step in range(STEPS):
            with torch.no_grad():
                for p in twin.parameters():
                    p.zero_()
            train(twin, reference, [step])
            train(model, optimizer, [step])
            for layer, p in twin.named_parameters():
                expected[step, layer] = -p.detach().clone() / LR
    trace = opened()
    for (step, layer), row in rows_of(trace).items():
        assert (row["source"], row["decay_form"]) == ("dispatch", "decoupled")
        assert row["decay"] == pytest.approx(LR * 0.1, rel=1e-12)
        update, truth = torch.from_numpy(trace.matrix(step, layer)), expected[step, layer]
        assert (update - truth).abs().max() <= 1e-6 * truth.abs().max()


@pytest.mark.parametrize("keyword", [False, True])
def test_lbfgs_goes_by_difference(keyword: bool, bag, watched, opened) -> None:
    model = bag(shapes={"weight": (6, 4)})
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    target = torch.ones(6, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model.weight - target).square().sum() + model.weight.pow(4).sum()
        loss.backward()
        return loss

    weights = [model.weight.detach().clone()]
    with watched(model, optimizer, stages=("gradient", "update")):
        for _ in range(3):
            optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            weights.append(model.weight.detach().clone())
    trace = opened()
    for (step, _), row in rows_of(trace).items():
        assert row["status"] == "ok"
        update = torch.from_numpy(trace.matrix(step, "weight"))
        truth = -(weights[step + 1] - weights[step]).double() / 0.5
        assert (update - truth).abs().max() <= 1e-6


def test_stages_of_our_own_optimizer_are_what_its_rule_made(bag, train, watched, opened) -> None:
    model, plain = bag(), bag()
    settings = {"lr": LR, "nesterov": True, "momentum": 0.9}
    optimizer = NorMuon(model.parameters(), **settings)
    reference = NorMuon(plain.parameters(), **settings)
    handed: dict[str, dict[int, Tensor]] = {"ns_input": {}, "orthogonalized": {}, "update": {}}
    reference.stage_observer = lambda p, stage, t: handed[stage].__setitem__(id(p), t.clone())
    stages = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")
    with watched(model, optimizer, stages=stages):
        for step in range(3):
            before = {n: p.detach().clone() for n, p in plain.named_parameters()}
            train(model, optimizer, [step])
            train(plain, reference, [step])
    trace = opened()
    for layer, p in plain.named_parameters():
        expected = {
            "gradient": p.grad,
            "momentum": reference.state[p]["momentum"],
            "ns_input": handed["ns_input"][id(p)],
            "orthogonalized": handed["orthogonalized"][id(p)].float(),
            "weight": before[layer],
        }
        for stage, matrix in expected.items():
            assert torch.equal(torch.from_numpy(trace.matrix(2, layer, stage)), matrix), stage
    sources = {stage: rows_of(trace, stage)[2, "tall"]["source"] for stage in stages}
    assert sources == {
        "gradient": None,
        "momentum": "state",
        "ns_input": "tap",
        "orthogonalized": "tap",
        "update": "tap",
        "weight": None,
    }


@pytest.mark.parametrize(
    ("settings", "status", "divisor"),
    [({"lr": 0.0}, "lr_zero", 1.0), ({}, "lr_absent", 1.0), ({"lr": 0.5}, "ok", 0.5)],
)
def test_an_absent_or_zero_rate_divides_by_one(
    settings: dict[str, float], status: str, divisor: float, bag, train, watched, opened
) -> None:
    class Fixed(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:
            for p in self.param_groups[0]["params"]:
                p.add_(p.grad, alpha=-0.25)

    model = bag()
    optimizer = Fixed(model.parameters(), settings)
    with watched(model, optimizer):
        train(model, optimizer, [0])
    trace = opened()
    row = rows_of(trace)[0, "wide"]
    assert (row["status"], row["lr"]) == (status, divisor)
    truth = model.wide.grad * 0.25 / divisor
    assert torch.allclose(torch.from_numpy(trace.matrix(0, "wide")), truth, rtol=1e-6)


def test_a_parameter_that_gets_no_gradient_has_a_zero_update(bag, give_gradients, watched, opened):
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with watched(model, optimizer):
        give_gradients(model, 0)
        model.tall.grad = None
        optimizer.step()
    rows = rows_of(opened())
    assert rows[0, "tall"]["status"] == "zero"
    assert rows[0, "wide"]["status"] == "ok"
