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
