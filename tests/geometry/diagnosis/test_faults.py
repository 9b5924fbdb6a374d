"""Each finding in a real short run that has the fault planted in its optimizer or its loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom
from optgeom.geometry import Diagnosis, Finding
from tests.geometry.diagnosis.conftest import Planted
from tests.geometry.diagnosis.faults import Muon, original, orthogonalized
from tests.geometry.diagnosis.loops import batches, groups, hidden, model, train

UP = ("blocks.0.mlp.up", "blocks.1.mlp.up")
STAGES = ("ns_input", "orthogonalized", "update")


def only(found: Diagnosis, rule: str) -> Finding:
    """The one finding of a rule; what else was found is in the message."""
    mine = [one for one in found.findings if one.rule == rule]
    assert len(mine) == 1, str(found)
    (one,) = mine
    assert one.cause
    assert one.advice
    assert one.evidence
    assert one.evidence[0].value is not None
    assert one.steps == tuple(sorted(one.steps))
    return one


def warned(found: Diagnosis) -> set[str]:
    return {one.rule for one in found.findings if one.severity != "note"}


def called_muon(direction: Callable[..., Tensor], **settings: Any) -> Callable[[nn.Module], Any]:
    """An optimizer that calls itself Muon, with another direction, over the hidden matrices."""

    def method(self: Any, p: Tensor, buffer: Tensor, group: Any, state: Any) -> Tensor:
        return direction(p, buffer)

    made = type("Muon", (Muon,), {"direction": method})
    return lambda net: made([{"params": hidden(net), **settings}])


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
    found = planted(called_muon(lambda p, o: orthogonalized(o, steps=2) * original(*p.shape)))
    one = only(found, "not_converged")
    assert warned(found) == {"not_converged"}
    assert one.severity == "warning"
    assert one.evidence[0].stage == "update"


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


def scaled_rows(factor: float) -> Callable[[nn.Module], None]:
    """Multiply the gradients of three neurons of each up-projection."""

    def before_step(net: Any) -> None:
        for block in net.blocks:
            block.mlp.up.weight.grad[:3] *= factor

    return before_step


def sgd(net: nn.Module) -> Any:
    return torch.optim.SGD(hidden(net), lr=0.1, momentum=0.9)


def test_neurons_that_dominate(planted: Planted) -> None:
    found = planted(sgd, before_step=scaled_rows(100.0))
    one = only(found, "dominant_neurons")
    assert warned(found) == {"dominant_neurons"}
    assert one.layers == UP
    assert "6 neurons" in one.title


@pytest.mark.parametrize(
    "make", [sgd, lambda net: optgeom.optim.Muon(groups(net), lr=0.004)], ids=["sgd", "muon"]
)
def test_neurons_that_are_dormant(make: Any, planted: Planted) -> None:
    found = planted(make, before_step=scaled_rows(1e-3))
    one = only(found, "dormant_neurons")
    assert warned(found) == {"dormant_neurons"}
    assert one.layers == UP
    assert "6 neurons" in one.title


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


def test_the_first_step_is_not_needed(planted: Planted) -> None:
    found = planted(normuon(0), every=7, updates_every=0, start_step=3)
    assert only(found, "wrong_neuron_axis").layers == UP


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


# -- rounding, decay, direction, gradients ---------------------------------------------------------


def test_bfloat16_eats_the_update_and_the_decay(planted: Planted) -> None:
    found = planted(
        lambda net: torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.1),
        net=model().bfloat16(),
    )
    update, decay = (one for one in found.findings if one.rule == "lost_to_rounding")
    assert warned(found) == {"lost_to_rounding"}
    assert "eats the update" in update.title
    assert "bfloat16" in update.title
    assert "eats the weight decay" in decay.title
    assert update.severity == "warning"


def test_bfloat16_weights_that_hardly_move_are_severe(planted: Planted) -> None:
    found = planted(
        lambda net: torch.optim.AdamW(net.parameters(), lr=2e-5, weight_decay=0.0),
        net=model().bfloat16(),
    )
    assert only(found, "lost_to_rounding").severity == "severe"


def test_float32_weights_move(planted: Planted) -> None:
    found = planted(lambda net: torch.optim.AdamW(net.parameters(), lr=2e-5, weight_decay=0.1))
    assert "lost_to_rounding" in found.judged
    assert not found.found, str(found)


def test_weight_decay_is_set_and_not_applied(planted: Planted) -> None:
    made = type("Muon", (Muon,), {"decay": lambda self, p, group: None})
    found = planted(lambda net: made(hidden(net), weight_decay=0.1))
    one = only(found, "decay_not_applied")
    assert warned(found) == {"decay_not_applied"}
    assert len(one.layers) == 12
    assert "weight_decay=0.1" in one.title


@pytest.mark.parametrize("where", ["decoupled", "in_gradient"])
def test_weight_decay_that_is_applied_is_none(where: str, planted: Planted) -> None:
    cls = torch.optim.AdamW if where == "decoupled" else torch.optim.Adam
    found = planted(lambda net: cls(hidden(net), lr=0.003, weight_decay=0.1))
    assert "decay_not_applied" in found.judged
    assert not found.found


def test_an_update_repeats(planted: Planted) -> None:
    kept: dict[Any, Tensor] = {}

    def stale(net: nn.Module) -> None:
        for p in net.parameters():
            if p.grad is not None:
                p.grad.copy_(kept.setdefault(p, p.grad.clone()))

    found = planted(lambda net: torch.optim.AdamW(hidden(net), lr=0.003), before_step=stale)
    one = only(found, "repeated_update")
    assert warned(found) == {"repeated_update"}
    assert len(one.layers) == 12


def test_an_update_reverses(planted: Planted) -> None:
    class Muon(Flipping):
        pass

    found = planted(lambda net: Muon(hidden(net)))
    one = only(found, "reversed_update")
    assert warned(found) == {"reversed_update"}
    assert max(each.value or 0.0 for each in one.evidence) < -0.5


class Flipping(Muon):
    """Changes its mind at every step."""

    def direction(self, p: Tensor, buffer: Tensor, group: Any, state: Any) -> Tensor:
        state["sign"] = -state.get("sign", 1)
        return super().direction(p, buffer, group, state) * state["sign"]


def test_the_same_batch_does_not_make_muon_repeat_itself(planted: Planted) -> None:
    """Neighbouring captures are alike then, and less so than a repetition."""
    (batch,) = batches(1)
    found = planted(
        lambda net: optgeom.optim.Muon(groups(net), lr=0.004), data=lambda steps, _: [batch] * steps
    )
    assert not found.found


@pytest.mark.parametrize("way", ["tensor", "data"])
def test_gradients_are_overwritten(way: str, planted: Planted) -> None:
    def direction(p: Tensor, buffer: Tensor) -> Tensor:
        assert p.grad is not None
        (p.grad if way == "tensor" else p.grad.data).lerp_(buffer, 0.95)
        return orthogonalized(p.grad) * original(*p.shape)

    found = planted(called_muon(direction))
    one = only(found, "gradient_overwritten")
    assert warned(found) == {"gradient_overwritten"}
    assert one.evidence[0].value == 12
    assert len(one.steps) == 8
