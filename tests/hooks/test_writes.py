"""Writes that reach the weights by other ways than one in-place operation on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

LR = 0.1


def by_data(p: nn.Parameter, u: Tensor) -> None:
    p.data.add_(u, alpha=-LR)


def by_detach(p: nn.Parameter, u: Tensor) -> None:
    p.detach().sub_(u, alpha=LR)


def by_out(p: nn.Parameter, u: Tensor) -> None:
    torch.add(p, u, alpha=-LR, out=p)


def by_augmented_assignment(p: nn.Parameter, u: Tensor) -> None:
    p -= LR * u


def by_self_add(p: nn.Parameter, u: Tensor) -> None:
    p.add_(p, alpha=-0.01).add_(u, alpha=-LR)


def by_division(p: nn.Parameter, u: Tensor) -> None:
    p.div_(1.01).add_(u, alpha=-LR)


def by_lerp(p: nn.Parameter, u: Tensor) -> None:
    p.lerp_(u, 0.3)


def by_broadcast(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u[:1], alpha=-LR).add_(0.25)


def by_twice_the_decay_around_the_update(p: nn.Parameter, u: Tensor) -> None:
    p.mul_(0.9).add_(u, alpha=-LR).mul_(0.9)


READ: dict[str, tuple[Callable[..., None], str, float]] = {
    "data": (by_data, "none", 0.0),
    "detach": (by_detach, "none", 0.0),
    "out": (by_out, "none", 0.0),
    "augmented": (by_augmented_assignment, "none", 0.0),
    "self-add": (by_self_add, "decoupled", 0.01),
    "division": (by_division, "decoupled", 1 - 1 / 1.01),
    "lerp": (by_lerp, "in_direction", 0.0),
    "broadcast": (by_broadcast, "none", 0.0),
    "decay-twice": (by_twice_the_decay_around_the_update, "decoupled", 0.19),
}


def by_rows(p: nn.Parameter, u: Tensor) -> None:
    p[:2].add_(u[:2], alpha=-LR)
    p[2:].add_(u[2:], alpha=-LR)


def by_transpose(p: nn.Parameter, u: Tensor) -> None:
    p.t().add_(u.t(), alpha=-LR)


def by_flattening(p: nn.Parameter, u: Tensor) -> None:
    p.view(-1).add_(u.view(-1), alpha=-LR)


def by_index(p: nn.Parameter, u: Tensor) -> None:
    p[torch.tensor([0, 3])] -= u[:2]


def by_factors(p: nn.Parameter, u: Tensor) -> None:
    p.mul_(1 - LR * u)


def by_copy(p: nn.Parameter, u: Tensor) -> None:
    p.copy_(p - LR * u)


def by_set(p: nn.Parameter, u: Tensor) -> None:
    p.set_(p.detach() - LR * u)


def by_decay_then_copy(p: nn.Parameter, u: Tensor) -> None:
    p.mul_(0.9)
    p.copy_(p - LR * u)


def by_projection(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u, alpha=-LR).mul_(2.0 / p.norm())


def by_weight_ratio(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u, alpha=-LR).mul_(torch.ones(6, 1))


def by_annihilation(p: nn.Parameter, u: Tensor) -> None:
    p.mul_(0.0).add_(u)


def by_clamp(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u, alpha=-LR).clamp_(-1, 1)


DIFFERENCE = [
    by_rows,
    by_transpose,
    by_flattening,
    by_index,
    by_factors,
    by_copy,
    by_set,
    by_decay_then_copy,
    by_projection,
    by_weight_ratio,
    by_annihilation,
    by_clamp,
]


def by_new_data(p: nn.Parameter, u: Tensor) -> None:
    p.data = p.detach() - LR * u


def by_numpy(p: nn.Parameter, u: Tensor) -> None:
    p.detach().numpy()[...] -= (LR * u).numpy()


HIDDEN = [by_new_data, by_numpy]


class Writing(torch.optim.Optimizer):
    """Applies the gradient as a given function writes it."""

    def __init__(self, params: Any, write: Callable[..., None]) -> None:
        super().__init__(params, {"lr": LR})
        self.write = write

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.write(p, p.grad)


def record(write, bag, train, watched, opened):
    model = bag(shapes={"weight": (6, 4)})
    weights = [model.weight.detach().clone()]
    with watched(model, Writing(model.parameters(), write)) as recorder:
        for step in range(3):
            train(model, recorder._optimizers[0], [step])
            weights.append(model.weight.detach().clone())
        assert recorder.failure is None
    trace = opened()
    rows = trace.metrics(stages=["update"]).to_pylist()
    updates = [torch.from_numpy(trace.matrix(step, "weight")) for step in range(3)]
    return rows, updates, weights


def explains(row: dict[str, Any], update: Tensor, before: Tensor, after: Tensor) -> bool:
    rebuilt = (1 - row["decay"]) * before.double() - row["lr"] * update.double()
    return bool(((rebuilt - after).abs() <= 2e-6 * before.abs().max()).all())


@pytest.mark.parametrize("name", READ)
def test_read_from_the_operation(name: str, bag, train, watched, opened) -> None:
    write, form, decay = READ[name]
    rows, updates, weights = record(write, bag, train, watched, opened)
    for step, (row, update) in enumerate(zip(rows, updates, strict=True)):
        assert (row["source"], row["status"], row["decay_form"]) == ("dispatch", "ok", form)
        assert row["decay"] == pytest.approx(decay, abs=1e-9)
        assert explains(row, update, weights[step], weights[step + 1])


@pytest.mark.parametrize("write", DIFFERENCE)
def test_read_from_the_difference(write, bag, train, watched, opened) -> None:
    rows, updates, weights = record(write, bag, train, watched, opened)
    for step, (row, update) in enumerate(zip(rows, updates, strict=True)):
        assert (row["source"], row["status"], row["decay"]) == ("difference", "ok", 0.0)
        assert row["decay_form"] == "unknown"
        assert explains(row, update, weights[step], weights[step + 1])


@pytest.mark.parametrize("write", HIDDEN)
def test_a_write_that_shows_no_operation_is_seen_to_be_one(
    write, bag, train, watched, opened
) -> None:
    rows, updates, weights = record(write, bag, train, watched, opened)
    assert (rows[0]["source"], rows[0]["status"]) == ("dispatch", "unverified")
    for step in (1, 2):
        assert (rows[step]["source"], rows[step]["status"]) == ("difference", "ok")
        assert explains(rows[step], updates[step], weights[step], weights[step + 1])


def test_parameters_that_share_one_flat_buffer(bag, watched, opened) -> None:
    model = bag(shapes={"first": (3, 4), "second": (2, 4)})
    flat = torch.randn(20, generator=torch.Generator().manual_seed(1))
    model.first.data, model.second.data = flat[:12].view(3, 4), flat[12:].view(2, 4)
    gradient = torch.randn(20, generator=torch.Generator().manual_seed(2))

    class Flat(torch.optim.Optimizer):
        whole = True

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            if self.whole:
                flat.add_(gradient, alpha=-LR)
            else:
                model.second.add_(gradient[12:].view(2, 4), alpha=-LR)

    optimizer = Flat(model.parameters(), {"lr": LR})
    with watched(model, optimizer):
        optimizer.step()
        optimizer.whole = False
        optimizer.step()
    trace = opened()
    rows = {(r["step"], r["layer"]): r for r in trace.metrics(stages=["update"]).to_pylist()}
    sources = {key: (row["source"], row["status"]) for key, row in rows.items()}
    assert sources == {
        (0, "first"): ("difference", "ok"),
        (0, "second"): ("difference", "ok"),
        (1, "first"): ("dispatch", "zero"),
        (1, "second"): ("dispatch", "ok"),
    }
    found = torch.from_numpy(trace.matrix(0, "second"))
    assert torch.allclose(found, gradient[12:].view(2, 4), atol=1e-5)


def test_a_gradient_that_the_step_overwrites_is_kept(bag, give_gradients, watched, opened) -> None:
    class Overwriting(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.grad.add_(p, alpha=0.1)
                p.grad.mul_(3.0)
                p.add_(p.grad, alpha=-LR)

    model = bag()
    optimizer = Overwriting(model.parameters(), {"lr": LR})
    with watched(model, optimizer, stages=("gradient", "update")):
        give_gradients(model, 0)
        truth = model.wide.grad.clone()
        optimizer.step()
    trace = opened()
    assert torch.equal(torch.from_numpy(trace.matrix(0, "wide", "gradient")), truth)
    row = trace.metrics(layers=["wide"], stages=["update"]).to_pylist()[0]
    assert row["decay_form"] == "in_gradient"


def through_the_direction(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u.sign() + 0.1 * p, alpha=-LR)


def through_the_gradient(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u.add(p, alpha=0.1) * 2, alpha=-LR)


def through_a_norm(p: nn.Parameter, u: Tensor) -> None:
    p.add_(u * (p.norm() / u.norm()), alpha=-LR)


def through_a_shape(p: nn.Parameter, u: Tensor) -> None:
    p.add_(torch.zeros_like(p).add_(u), alpha=-LR)


def through_an_overwritten_copy(p: nn.Parameter, u: Tensor) -> None:
    p.add_(torch.ones(6, 4).copy_(p).copy_(u), alpha=-LR)


@pytest.mark.parametrize(
    ("write", "form"),
    [
        (through_the_direction, "in_direction"),
        (through_the_gradient, "in_gradient"),
        (through_a_norm, "none"),
        (through_a_shape, "none"),
        (through_an_overwritten_copy, "none"),
    ],
)
def test_where_decay_enters_is_told_from_the_operands(
    write, form, bag, train, watched, opened
) -> None:
    rows, updates, weights = record(write, bag, train, watched, opened)
    for step, (row, update) in enumerate(zip(rows, updates, strict=True)):
        assert (row["source"], row["decay_form"], row["decay"]) == ("dispatch", form, 0.0)
        assert explains(row, update, weights[step], weights[step + 1])
