"""Each finding in a real short run that has the fault planted in its optimizer or its loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom
from tests.geometry.diagnosis.conftest import Planted
from tests.geometry.diagnosis.faults import Muon, called_muon, original, orthogonalized, sgd
from tests.geometry.diagnosis.loops import groups, hidden, model, train
from tests.geometry.diagnosis.told import only, warned

UP = ("blocks.0.mlp.up", "blocks.1.mlp.up")
STAGES = ("ns_input", "orthogonalized", "update")


# -- orthogonality ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [("update",), ("gradient", "momentum", "update")])
def test_momentum_sgd_is_called_muon(stages: tuple[str, ...], planted: Planted) -> None:
    found = planted(called_muon(lambda p, buffer: buffer), stages=stages)
    one = only(found, "not_orthogonal")
    assert warned(found) == {"not_orthogonal"}
    assert one.severity == "severe"
    assert len(one.layers) >= 10
    assert "called Muon" in one.title
    if "momentum" in stages:
        assert "spectrum of the momentum" in one.cause


def test_plain_sgd_is_called_muon(planted: Planted) -> None:
    found = planted(called_muon(lambda p, buffer: p.grad))
    one = only(found, "not_orthogonal")
    assert warned(found) == {"not_orthogonal"}
    assert "Plain gradient descent" in one.cause
    assert {each.what for each in one.evidence} >= {"cosine_gradient"}


def test_adamw_is_called_muon(planted: Planted) -> None:
    made = type("Muon", (torch.optim.AdamW,), {})
    found = planted(lambda net: made([{"params": hidden(net), "momentum": 0.9}], lr=0.003))
    assert warned(found) == {"not_orthogonal"}
    assert len(only(found, "not_orthogonal").layers) == 12


def test_newton_schulz_ends_too_early(planted: Planted) -> None:
    found = planted(
        called_muon(lambda p, o: orthogonalized(o, steps=2) * original(*p.shape)),
        stages=("momentum", "update"),
    )
    one = only(found, "not_converged")
    assert warned(found) == {"not_converged"}
    assert one.severity == "warning"
    assert one.evidence[0].stage == "update"
    assert "that five steps of Newton-Schulz lift" in one.title


def test_without_its_input_a_short_iteration_is_a_note(planted: Planted) -> None:
    """Of an ill-conditioned input, five steps leave as much."""
    found = planted(called_muon(lambda p, o: orthogonalized(o, steps=2) * original(*p.shape)))
    assert only(found, "not_converged").severity == "note"
    assert "ill-conditioned, or it has too few steps" in only(found, "not_converged").title
    assert not found.found


def test_an_input_that_is_not_divided_by_its_norm(planted: Planted) -> None:
    """As many steps as are right, and yet nothing is lifted: the input shows it."""

    def slow(p: Tensor, o: Tensor) -> Tensor:
        x = o / (o.norm() + 1e-7) / 50.0
        for _ in range(5):
            x = 3.4445 * x - (4.775 * x @ x.T - 2.0315 * x @ x.T @ x @ x.T) @ x
        return x * original(*p.shape)

    found = planted(called_muon(slow, ns_steps=5, scale="original"), stages=("momentum", "update"))
    assert only(found, "not_converged").severity == "warning"


def test_the_settings_tell_why_it_has_not_converged(planted: Planted) -> None:
    found = planted(
        lambda net: optgeom.optim.Muon(groups(net, ns_steps=2), lr=0.004), stages=STAGES
    )
    one = only(found, "not_converged")
    assert "ns_steps=2" in one.cause
    assert one.evidence[0].stage == "orthogonalized"


# -- scale -----------------------------------------------------------------------------------------


class Twice(optgeom.optim.Muon):
    """Multiplies with the shape factor once more."""

    def rule(self, *args: Any) -> Tensor:
        return super().rule(*args).mul_(0.2 * max(args[-1]) ** 0.5)


def test_the_scale_is_applied_twice(planted: Planted) -> None:
    found = planted(lambda net: Twice(groups(net), lr=0.004))
    one = only(found, "muon_scale")
    assert warned(found) == {"muon_scale"}
    assert one.severity == "severe"
    assert "applied twice" in one.title
    # of 32 x 32 the factor is 1.13, and twice that is the same
    assert {layer.rpartition(".")[2] for layer in one.layers} == {"up", "down"}


def test_the_scale_is_not_applied(planted: Planted) -> None:
    found = planted(called_muon(lambda p, o: orthogonalized(o), scale="match_rms"))
    one = only(found, "muon_scale")
    assert warned(found) == {"muon_scale"}
    assert "not applied" in one.title


def test_without_a_setting_the_shapes_tell(planted: Planted) -> None:
    found = planted(called_muon(lambda p, o: orthogonalized(o) * original(*p.shape) ** 2))
    one = only(found, "muon_scale")
    assert one.severity == "warning"
    assert one.layers == UP
    assert "'original'" in one.title


class Raw(optgeom.optim.NorMuon):
    """A port without the last rescaling."""

    def rule(self, *args: Any) -> Tensor:
        return super().rule(*args).mul_(5.0)


@pytest.mark.parametrize("family", ["paper", "released"])
def test_normuon_without_its_rescaling(family: str, planted: Planted) -> None:
    found = planted(lambda net: Raw(groups(net), lr=0.004, family=family))
    one = only(found, "muon_scale")
    assert "5 times the size" in one.title if family == "paper" else "times the size" in one.title
    assert len(one.layers) == 12


# -- neurons ---------------------------------------------------------------------------------------


def scaled_rows(factor: float, count: int = 3) -> Callable[[nn.Module], None]:
    """Multiply the gradients of a few neurons of each up-projection."""

    def before_step(net: Any) -> None:
        for block in net.blocks:
            block.mlp.up.weight.grad[:count] *= factor

    return before_step


def test_neurons_that_dominate(planted: Planted) -> None:
    found = planted(sgd, before_step=scaled_rows(100.0))
    one = only(found, "dominant_neurons")
    assert warned(found) == {"dominant_neurons"}
    assert one.layers == UP
    assert "6 neurons" in one.title
    assert all(each.value is not None and each.value >= 5.0 for each in one.evidence)


@pytest.mark.parametrize(
    "make", [sgd, lambda net: optgeom.optim.Muon(groups(net), lr=0.004)], ids=["sgd", "muon"]
)
def test_neurons_that_are_dormant(make: Any, planted: Planted) -> None:
    found = planted(make, before_step=scaled_rows(1e-3, 16))
    one = only(found, "dormant_neurons")
    assert warned(found) == {"dormant_neurons"}
    assert one.layers == UP
    assert "32 neurons" in one.title
    assert all(each.value is not None and each.value < 0.1 for each in one.evidence)


def test_a_few_dormant_neurons_are_a_note(planted: Planted) -> None:
    found = planted(sgd, before_step=scaled_rows(1e-3))
    assert only(found, "dormant_neurons").severity == "note"
    assert not found.found


def test_rows_that_never_move_are_a_note(planted: Planted) -> None:
    found = planted(sgd, before_step=scaled_rows(0.0))
    one = only(found, "dormant_neurons")
    assert not found.found
    assert "6 rows" in one.title


def test_neurons_that_are_so_for_a_while_are_none(tmp_path: Path) -> None:
    steps = iter(range(100))

    def at_first(net: Any) -> None:
        scaled_rows(100.0 if next(steps) < 25 else 1.0)(net)

    def make(net: nn.Module) -> Any:
        return torch.optim.SGD(hidden(net), lr=1e-4)  # too little for them to grow by it

    trace = train(tmp_path / "run", make, before_step=at_first)
    assert "dominant_neurons" in warned(optgeom.diagnose(trace, steps=slice(None, 25)))
    assert "dominant_neurons" not in warned(optgeom.diagnose(trace))


def test_unevenness_that_is_newton_schulz_error(planted: Planted) -> None:
    found = planted(
        lambda net: optgeom.optim.Muon(groups(net, ns_steps=2), lr=0.004), stages=STAGES
    )
    one = next(each for each in found.findings if each.rule == "uneven_neurons")
    assert one.severity == "warning"
    assert "because of the iteration" in one.title
    assert "ns_row_error" in {each.what for each in one.evidence}


# -- the axis --------------------------------------------------------------------------------------


class NorMuon(Muon):
    """The paper's, over a dimension that the settings may not mean."""

    def direction(self, p: Tensor, buffer: Tensor, group: Any, state: Any) -> Tensor:
        update = orthogonalized(buffer)
        mean = update.square().mean(dim=group["dim"], keepdim=True)
        second = state.setdefault("second_moment", torch.zeros_like(mean)).lerp_(mean, 0.05)
        update = update / (second.sqrt() + 1e-8)
        return update * (0.2 * update.numel() ** 0.5 / update.norm())


def normuon(dim: int) -> Callable[[nn.Module], Any]:
    known = {"neuron_axis": "rows", "rescale": "rms", "rms": 0.2, "dim": dim}
    return lambda net: NorMuon([{"params": hidden(net), **known}], lr=0.004)


def test_the_other_axis_is_normalized(planted: Planted) -> None:
    found = planted(normuon(0))
    one = only(found, "wrong_neuron_axis")
    assert warned(found) == {"wrong_neuron_axis"}
    assert one.severity == "severe"
    assert len(one.layers) == 12


def test_the_right_axis_is_normalized(planted: Planted) -> None:
    assert not planted(normuon(-1)).found


def test_the_right_axis_without_the_first_step(planted: Planted) -> None:
    found = planted(normuon(-1), every=7, updates_every=0, start_step=3)
    assert "wrong_neuron_axis" in found.judged
    assert not found.found


def test_the_first_step_is_not_needed(planted: Planted) -> None:
    found = planted(normuon(0), every=7, updates_every=0, start_step=3)
    one = only(found, "wrong_neuron_axis")
    # the longer axis is the columns of down alone, and orthogonalizing leaves it uneven
    assert set(one.layers) <= {"blocks.0.mlp.down", "blocks.1.mlp.down"}
    assert one.severity == "warning"


class Gated(nn.Module):
    """A GPT whose logits are multiplied with a gate: a matrix of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = model()
        self.gate = nn.Linear(256, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.gpt(tokens)
        return logits * (1.0 + self.gate(logits))


def test_a_gate_of_one_row_becomes_its_signs(planted: Planted) -> None:
    known = {"neuron_axis": "rows", "rescale": "rms", "rms": 0.2, "dim": 0}
    found = planted(
        lambda net: NorMuon([{"params": [net.gate.weight], **known}], lr=0.004), net=Gated()
    )
    one = only(found, "wrong_neuron_axis")
    assert "nothing but signs" in one.title
    assert one.layers == ("gate",)
