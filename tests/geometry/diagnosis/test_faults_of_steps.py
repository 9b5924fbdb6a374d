"""Faults of the step itself, whatever its rule: each in a real short run that has it planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optgeom
from optgeom.geometry import Diagnosis, Finding
from tests.geometry.diagnosis.conftest import Planted
from tests.geometry.diagnosis.faults import Muon, called_muon, original, orthogonalized, sgd
from tests.geometry.diagnosis.loops import batches, groups, hidden, model, train
from tests.geometry.diagnosis.told import only, warned

UP = ("blocks.0.mlp.up", "blocks.1.mlp.up")


# -- no numbers, no movement, ascent ---------------------------------------------------------------


@pytest.mark.parametrize("stages", [("update",), ("gradient", "momentum", "update")])
def test_gradients_that_are_not_numbers(stages: tuple[str, ...], planted: Planted) -> None:
    steps = iter(range(100))

    def break_one(net: Any) -> None:
        if next(steps) == 20:
            net.blocks[1].mlp.up.weight.grad[0, 0] = float("nan")

    found = planted(sgd, before_step=break_one, stages=stages)
    one = only_of_none(found)
    assert warned(found) == {"not_finite"}
    assert one.severity == "severe"
    assert "begins in blocks.1.mlp.up at step 20" in one.title
    assert one.steps == (20, 25, 30, 35)
    assert ("first seen in the gradient" in one.title) == ("gradient" in stages)
    assert ("would tell" in one.cause) == ("gradient" not in stages)


def test_an_iteration_that_overflows(planted: Planted) -> None:
    def direction(p: Tensor, buffer: Tensor) -> Tensor:
        return orthogonalized((buffer / buffer.norm() * 1e4).half()).float() * float("inf")

    found = planted(called_muon(direction), steps=20, stages=("gradient", "momentum", "update"))
    one = only_of_none(found)
    assert "at step 0" in one.title
    assert "first seen" not in one.title
    assert "step itself" in one.cause


class Careful(torch.optim.SGD):
    """Leaves out a step whose gradients are not finite, as a fused one under a GradScaler does."""

    def step(self, closure: Any = None) -> Any:
        gradients = (p.grad for p in self.param_groups[0]["params"])
        if all(bool(one.isfinite().all()) for one in gradients if one is not None):
            super().step(closure)


def test_gradients_that_the_step_leaves_out_are_a_note(planted: Planted) -> None:
    steps = iter(range(100))

    def overflow(net: Any) -> None:
        if next(steps) in (0, 5):
            net.blocks[0].mlp.up.weight.grad[0, 0] = float("inf")

    found = planted(
        lambda net: Careful(hidden(net), lr=0.1),
        before_step=overflow,
        stages=("gradient", "update"),
    )
    one = only_of_none(found)
    assert one.severity == "note"
    assert one.steps == (0, 5)
    assert one.layers == UP[:1]
    assert not found.found


def only_of_none(found: Diagnosis) -> Finding:
    """The finding of what has no value."""
    (one,) = (each for each in found.findings if each.rule == "not_finite")
    assert {each.value for each in one.evidence} == {None}
    return one


@pytest.mark.parametrize("stages", [("update",), ("gradient", "update")])
@pytest.mark.parametrize("how", ["no gradient", "lost in the step"])
def test_a_layer_never_moves(how: str, stages: tuple[str, ...], planted: Planted) -> None:
    def no_gradient(net: Any) -> None:
        net.blocks[0].mlp.up.weight.grad.zero_()

    def direction(p: Tensor, buffer: Tensor) -> Tensor:
        return buffer * float(p.shape[0] < 100)  # of up and what is as tall, zero

    if how == "no gradient":
        found = planted(sgd, before_step=no_gradient, stages=stages)
    else:
        made = type("Momentum", (Muon,), {"direction": lambda self, p, b, g, s: direction(p, b)})
        found = planted(lambda net: made(hidden(net)), stages=stages)
    one = only(found, "never_moves")
    assert warned(found) == {"never_moves"}
    assert one.layers == (UP[:1] if how == "no gradient" else UP)
    assert "layers move)" in one.title
    if "gradient" in stages:
        assert one.cause.startswith("No gradient" if how == "no gradient" else "A gradient comes")


def test_a_learning_rate_of_zero_is_a_note(planted: Planted) -> None:
    def make(net: Any) -> Any:
        first, *rest = hidden(net)
        return torch.optim.AdamW([{"params": [first], "lr": 0.0}, {"params": rest}], lr=0.003)

    found = planted(make)
    one = only(found, "never_moves")
    assert one.severity == "note"
    assert "learning rate is 0" in one.title
    assert not found.found


def test_the_sign_is_wrong(planted: Planted) -> None:
    found = planted(called_muon(lambda p, o: -orthogonalized(o) * original(*p.shape)))
    one = only(found, "ascends")
    assert "ascends" in warned(found)
    assert one.severity == "severe"
    assert len(one.layers) >= 10
    assert max(each.value or 0.0 for each in one.evidence) < -0.1


def test_an_ascent_that_is_meant(planted: Planted) -> None:
    found = planted(lambda net: torch.optim.SGD(hidden(net), lr=1e-4, maximize=True))
    assert "ascends" not in {one.rule for one in found.findings}


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


def test_one_capture_of_a_warm_up_is_not_severe(tmp_path: Path) -> None:
    def make(net: nn.Module) -> Any:
        made = torch.optim.AdamW(net.parameters(), lr=1e-7, weight_decay=0.0)
        made.register_step_post_hook(lambda one, *_: one.param_groups[0].update(lr=rising()))
        return made

    steps = iter(range(1, 100))

    def rising() -> float:
        return 1e-7 * (1 + next(steps))

    trace = train(tmp_path / "run", make, net=model().bfloat16())
    begun = optgeom.diagnose(trace, steps=[0])
    assert "lost_to_rounding" not in {one.rule for one in begun.findings}
    # nine in ten do not move, and the warm-up is not at its end
    assert only(optgeom.diagnose(trace), "lost_to_rounding").severity == "warning"


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


def test_weight_decay_is_applied_twice(planted: Planted) -> None:
    def twice(self: Any, p: Tensor, group: Any) -> None:
        for _ in range(2):
            p.mul_(1 - group["lr"] * group["weight_decay"])

    made = type("Muon", (Muon,), {"decay": twice})
    found = planted(lambda net: made(hidden(net), weight_decay=0.1))
    one = only(found, "decay_twice")
    assert warned(found) == {"decay_twice"}
    assert len(one.layers) == 12
    assert one.evidence[0].value == pytest.approx(2 * 0.02 * 0.1, rel=0.01)


@pytest.mark.parametrize("where", ["decoupled", "in_gradient"])
def test_weight_decay_that_is_applied_is_none(where: str, planted: Planted) -> None:
    cls = torch.optim.AdamW if where == "decoupled" else torch.optim.Adam
    found = planted(lambda net: cls(hidden(net), lr=0.003, weight_decay=0.1))
    assert "decay_not_applied" in found.judged
    assert ("decay_twice" in found.judged) == (where == "decoupled")
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
    assert one.severity == "note"
    assert not found.found
    assert one.evidence[0].value == 12
    assert len(one.steps) == 8
