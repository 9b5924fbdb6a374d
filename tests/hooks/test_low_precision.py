"""bfloat16 weights: the operand is recorded, not what rounding left of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optgeom.optim import NorMuon

BF16 = torch.bfloat16
SHAPES = {"weight": (24, 16)}


class OtherAdam(torch.optim.Adam):
    """Fused, and of a class whose state is not taken for a formula: by difference."""


def record(model: Any, optimizer: Any, train: Any, watched: Any, opened: Any, **settings: Any):
    """Three steps; the last one's row, update, and the weights on both sides of it."""
    with watched(model, optimizer, **settings):
        train(model, optimizer, [0, 1])
        before = model.weight.detach().clone()
        train(model, optimizer, [2])
    trace = opened()
    rows = trace.metrics(steps=[2], stages=["update"]).to_pylist()
    return rows[0], torch.from_numpy(trace.matrix(2, "weight")), before, model.weight.detach()


def lost(weights: Tensor, term: Tensor) -> float:
    """Share of the entries that a term should have moved and did not, one by one."""
    moved = [
        (float(torch.tensor(w.item() + t.item(), dtype=weights.dtype)) != w.item())
        for w, t in zip(weights.flatten(), term.flatten(), strict=True)
        if t != 0
    ]
    return 1 - sum(moved) / len(moved)


def test_sgd_records_the_gradient_itself(bag, train, watched, opened) -> None:
    model = bag(BF16, SHAPES)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4, foreach=False)
    row, update, before, after = record(model, optimizer, train, watched, opened)
    gradient = model.weight.grad.float()
    assert torch.allclose(update, gradient, rtol=1e-6)
    assert row["lost_update_fraction"] == pytest.approx(lost(before, -2e-4 * gradient))
    assert 0.5 < row["lost_update_fraction"] < 1.0
    assert row["lost_decay_fraction"] is None
    assert (row["source"], row["status"]) == ("dispatch", "ok")
    # the weights' difference, which rounding made, is far from the update
    assert ((before - after).float() / 2e-4 - gradient).norm() > 0.5 * gradient.norm()


@pytest.mark.parametrize("foreach", [False, True])
def test_adamw_records_the_operand_and_counts_what_is_lost(
    foreach: bool, bag, train, watched, opened
) -> None:
    settings = {"lr": 2e-3, "weight_decay": 0.1, "foreach": foreach}
    model, twin = bag(BF16, SHAPES), bag(BF16, SHAPES)
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    reference = torch.optim.AdamW(twin.parameters(), **settings)
    for step in range(3):  # weights of zero keep all bits of what is added to them
        with torch.no_grad():
            twin.weight.zero_()
        train(twin, reference, [step])
    row, update, before, _ = record(model, optimizer, train, watched, opened)
    truth = -twin.weight.detach().float() / 2e-3
    assert torch.allclose(update, truth, rtol=2 * torch.finfo(BF16).eps)
    assert row["decay"] == pytest.approx(2e-4, rel=1e-9)
    assert row["lost_decay_fraction"] == lost(before, -2e-4 * before.float()) == 1.0
    assert row["lost_update_fraction"] == pytest.approx(lost(before, -2e-3 * update), abs=0.01)


def test_normuon_in_bfloat16_keeps_its_rms(bag, train, watched, opened) -> None:
    model = bag(BF16, SHAPES)
    optimizer = NorMuon(model.parameters(), lr=1e-3)
    row, *_ = record(model, optimizer, train, watched, opened)
    assert row["update_rms"] == pytest.approx(0.2, rel=1e-4)
    assert row["source"] == "tap"
    assert row["lost_update_fraction"] > 0.5


def test_a_difference_has_a_floor_and_is_lost_where_most_entries_stay(
    bag, train, watched, opened
) -> None:
    model = bag(BF16, SHAPES)
    optimizer = OtherAdam(model.parameters(), lr=2e-4, fused=True)
    row, update, before, after = record(model, optimizer, train, watched, opened)
    assert (row["source"], row["status"], row["spectrum_status"]) == ("difference", "lost", "lost")
    assert row["lost_update_fraction"] == pytest.approx((before == after).float().mean().item())
    assert row["lost_update_fraction"] > 0.25
    assert row["condition_number"] is None
    assert torch.equal(update, (before.float() - after.float()) / 2e-4)


def test_a_difference_that_moves_most_entries_has_a_noise_floor(
    bag, train, watched, opened
) -> None:
    model = bag(BF16, SHAPES)
    optimizer = OtherAdam(model.parameters(), lr=0.5, fused=True)
    row, _, _, after = record(model, optimizer, train, watched, opened)
    # the weights before the step are exact as stored: what was rounded are those after it
    ulp = 2.0 ** torch.floor(torch.log2(after.float().abs())) * torch.finfo(BF16).eps
    noise = ulp.square().mean().sqrt().item() * (24**0.5 + 16**0.5) / (12**0.5 * 0.5)
    assert (row["source"], row["status"]) == ("difference", "ok")
    assert row["noise_floor"] == pytest.approx(noise, rel=1e-4)
    assert row["lost_update_fraction"] < 0.25


def test_float16_weights_and_float64_weights_are_read(
    bag, train, watched, opened, tmp_path
) -> None:
    half, double = bag(torch.float16, SHAPES), bag(torch.float64, SHAPES)
    for index, model in enumerate((half, double)):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with watched(model, optimizer, out=tmp_path / str(index)):
            train(model, optimizer, [0])
        trace = opened(index)
        found = torch.from_numpy(trace.matrix(0, "weight"))
        assert torch.allclose(found, model.weight.grad.float(), rtol=1e-6)


def kappa(matrix: Tensor) -> float:
    values = torch.linalg.svdvals(matrix.double())
    return float(values[0] / values[-1])


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_one_run_read_from_its_operand_and_from_its_difference(
    dtype: torch.dtype, bag, watched, opened
) -> None:
    model = bag(dtype, {"weight": (96, 96)})
    with torch.no_grad():
        model.weight.mul_(0.02)
    generator = torch.Generator().manual_seed(7)
    random = torch.randn(96, 96, dtype=torch.float64, generator=generator)
    left, _, right = torch.linalg.svd(random)
    gradient = left @ torch.diag(torch.linspace(15.0, 1.0, 96, dtype=torch.float64)) @ right
    model.weight.grad = gradient.to(dtype)
    truth = kappa(model.weight.grad)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-6)
    before = model.weight.detach().clone()
    with watched(model, optimizer):
        optimizer.step()
    row = opened().metrics().to_pylist()[0]
    assert row["condition_number"] == pytest.approx(truth, rel=1e-4)
    assert kappa((before - model.weight.detach()).float() / 2e-6) > 5 * truth
    assert row["condition_number_resolved"] == pytest.approx(truth, rel=1e-4)
    # the operand has the digits of its own dtype, whatever the weights can take up of it
    values = torch.linalg.svdvals(model.weight.grad.double())
    assert row["noise_floor"] == pytest.approx(torch.finfo(dtype).eps * values[0].item(), rel=1e-5)
    assert 0.25 < row["lost_update_fraction"] < 1.0


def rounded(value: Tensor) -> Tensor:
    return value.to(BF16).double()


def adam(state: dict[str, Tensor], g: Tensor, step: int) -> Tensor:
    first = 0.9 * state.get("exp_avg", 0 * g) + 0.1 * g
    second = 0.999 * state.get("exp_avg_sq", 0 * g) + 0.001 * g * g
    state |= {"exp_avg": rounded(first), "exp_avg_sq": rounded(second)}
    return (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)


def adagrad(state: dict[str, Tensor], g: Tensor, step: int) -> Tensor:
    total = state.get("sum", 0 * g) + g * g
    state["sum"] = rounded(total)
    return g / (total.sqrt() + 1e-10)


@pytest.mark.parametrize(
    ("build", "rule", "decay"),
    [
        (lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.1, fused=True), adam, 2e-4),
        (lambda p: torch.optim.Adagrad(p, lr=2e-3, fused=True), adagrad, 0.0),
    ],
    ids=["adamw", "adagrad"],
)
def test_a_fused_step_is_what_its_kernel_computed_before_it_rounded(
    build, rule, decay, bag, train, watched, opened
) -> None:
    model = bag(BF16, SHAPES)
    optimizer = build(model.parameters())
    state: dict[str, Tensor] = {}
    expected = []
    with watched(model, optimizer, stages=("gradient", "update")):
        for step in range(4):
            train(model, optimizer, [step])
            expected.append(rule(state, model.weight.grad.double(), step + 1))
            for name, value in state.items():  # the reference rounds as the kernel does
                stored = optimizer.state[model.weight][name].double()
                assert (stored - value).abs().max() <= 2**-8 * value.abs().max()
                state[name] = stored
    trace = opened()
    rows = trace.metrics(stages=["update"]).to_pylist()
    for step, (row, truth) in enumerate(zip(rows, expected, strict=True)):
        assert (row["source"], row["status"]) == ("state", "ok")
        assert row["decay"] == pytest.approx(decay, rel=1e-9)
        found = torch.from_numpy(trace.matrix(step, "weight")).double()
        assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()
    assert rows[-1]["lost_update_fraction"] > 0.0


def test_a_fused_step_whose_state_is_not_the_rules_is_not_read_from_it(
    bag, train, watched, opened
) -> None:
    # the weights are so coarse, and the rate so small, that they alone would not tell
    model = bag(BF16, SHAPES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    step = optimizer.step

    def another_rule() -> None:
        step()
        for state in optimizer.state.values():
            state["exp_avg"].mul_(1.5)

    optimizer.step = another_rule
    with watched(model, optimizer):
        train(model, optimizer, range(3))
    rows = opened().metrics().to_pylist()
    assert [(row["source"], row["status"]) for row in rows] == [
        ("state", "unverified"),
        ("difference", "lost"),
        ("difference", "lost"),
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_fused_sgd_in_bfloat16_is_believed_only_where_the_weights_agree(
    momentum: float, bag, train, watched, opened
) -> None:
    # torch 2.13's kernel for the CPU does not compute SGD in bfloat16
    model = bag(BF16, SHAPES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum, fused=True)
    weights = [model.weight.detach().double()]
    with watched(model, optimizer):
        for step in range(3):
            train(model, optimizer, [step])
            weights.append(model.weight.detach().double().clone())
    trace = opened()
    for step, row in enumerate(trace.metrics().to_pylist()):
        update = torch.from_numpy(trace.matrix(step, "weight")).double()
        off = (weights[step] - 0.5 * update - weights[step + 1]).abs()
        right = bool((off <= 2**-6 * (weights[step].abs() + update.abs())).all())
        assert right or row["status"] != "ok"
