"""Torch's own optimizers, read from calls on their parameters once one capture knows them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from optgeom.hooks.calls import METHODS

ADAMW = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1, foreach=False)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=False)
MUON = partial(torch.optim.Muon, lr=0.1, weight_decay=0.1)


def noting(optimizer: torch.optim.Optimizer) -> list[bool]:
    """At every step: whether a dispatch mode was worn."""
    modes: list[bool] = []
    optimizer.register_step_pre_hook(
        lambda *_: modes.append(_get_current_dispatch_mode() is not None)
    )
    return modes


def updates(trace: Any) -> dict[tuple[int, str], dict[str, Any]]:
    return {(r["step"], r["layer"]): r for r in trace.metrics(stages=["update"]).to_pylist()}


@pytest.mark.parametrize(
    ("make", "form"), [(ADAMW, "decoupled"), (SGD, "in_gradient"), (MUON, "decoupled")]
)
def test_the_mode_is_worn_once_and_the_record_stays_exact(
    make: Any, form: str, bag, train, watched, opened
) -> None:
    model = bag()
    optimizer = make(model.parameters())
    modes = noting(optimizer)
    weights = []
    with watched(model, optimizer):
        for step in range(6):
            weights.append({n: p.detach().double() for n, p in model.named_parameters()})
            train(model, optimizer, [step])
        weights.append({n: p.detach().double() for n, p in model.named_parameters()})
    assert modes == [True] + [False] * 5
    rows = updates(opened())
    assert len(rows) == 6 * 3
    for (step, layer), row in rows.items():
        assert (row["source"], row["status"], row["decay_form"]) == ("dispatch", "ok", form)
        kept = (1.0 - row["decay"]) * weights[step][layer]
        truth = (kept - weights[step + 1][layer]) / row["lr"]
        found = torch.from_numpy(opened().matrix(step, layer)).double()
        # the weights' own rounding, divided by the rate
        rounding = 4 * torch.finfo(torch.float32).eps * weights[step][layer].abs().max() / 0.1
        assert (found - truth).abs().max() <= rounding + 1e-6 * truth.abs().max()


def test_other_settings_are_looked_at_anew(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.0, foreach=False)
    modes = noting(optimizer)
    with watched(model, optimizer):
        train(model, optimizer, range(3))
        optimizer.param_groups[0]["weight_decay"] = 0.1
        optimizer.param_groups[0]["lr"] = 0.05  # a schedule's business, which changes nothing
        train(model, optimizer, range(3, 6))
    assert modes == [True, False, False, True, False, False]
    forms = {step: row["decay_form"] for (step, _), row in updates(opened()).items()}
    assert forms == dict(enumerate(["none"] * 3 + ["in_gradient"] * 3))


def test_a_write_that_nobody_expects_is_noticed(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = ADAMW(model.parameters())
    modes = noting(optimizer)
    halves = optimizer.register_step_post_hook(
        lambda *_: [p.data.mul_(0.5) for p in model.parameters()] if len(modes) > 2 else None
    )
    with watched(model, optimizer):
        train(model, optimizer, range(5))
    halves.remove()
    assert modes == [True, False, False, True, True]
    statuses = {(step, row["status"]) for (step, _), row in updates(opened()).items()}
    assert statuses >= {(0, "ok"), (1, "ok"), (2, "unverified")}
    assert (4, "unverified") not in statuses


def test_nothing_is_left_on_a_parameter(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = ADAMW(model.parameters())
    seen: list[int] = []

    def look(*_: Any) -> None:
        seen.append(sum(name in p.__dict__ for p in model.parameters() for name in METHODS))
        if len(seen) == 3:
            raise RuntimeError("mid-step")

    optimizer.register_step_pre_hook(look)
    before = [dict(p.__dict__) for p in model.parameters()]
    with watched(model, optimizer):
        train(model, optimizer, range(2))
        with pytest.raises(RuntimeError, match="mid-step"):
            train(model, optimizer, [2])
        assert [dict(p.__dict__) for p in model.parameters()] == before
        train(model, optimizer, [2])
    assert [dict(p.__dict__) for p in model.parameters()] == before
    assert seen == [0, *[3 * len(METHODS)] * 3]
    assert {row["status"] for row in updates(opened()).values()} == {"ok"}
    assert len(updates(opened())) == 3 * 3


def test_two_recorders_see_the_same(bag, train, watched, opened, tmp_path) -> None:
    import optgeom

    model = bag()
    optimizer = ADAMW(model.parameters())
    with (
        watched(model, optimizer),
        optgeom.watch(model, optimizer, tmp_path / "second", every=1, budget=None),
    ):
        train(model, optimizer, range(4))
    first, second = updates(opened()), updates(optgeom.open_trace(tmp_path / "second"))
    assert first.keys() == second.keys()
    for key, row in first.items():
        assert row["status"] == "ok"
        assert row["frobenius_norm"] == second[key]["frobenius_norm"]


def test_a_subclass_is_watched_by_the_mode(bag, train, watched, opened) -> None:
    class Mine(torch.optim.AdamW):
        pass

    model = bag()
    optimizer = Mine(model.parameters(), foreach=False)
    modes = noting(optimizer)
    with watched(model, optimizer):
        train(model, optimizer, range(3))
    assert modes == [True] * 3
