"""Several recorders; copies and pickles of what is watched; what is left when all is dropped."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from optgeom.optim import NorMuon

ALL_STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")


@pytest.mark.parametrize("close_first", [0, 1])
def test_two_recorders_share_one_optimizer(close_first, watched, bag, train, opened, tmp_path):
    model = bag()
    optimizer = NorMuon(model.parameters(), lr=0.1)
    recorders = [
        watched(model, optimizer, out=tmp_path / "a", stages=ALL_STAGES),
        watched(model, optimizer, out=tmp_path / "b", stages=ALL_STAGES, every=2, updates_every=2),
    ]
    train(model, optimizer, range(3))
    recorders[close_first].close()
    train(model, optimizer, range(3, 5))
    recorders[1 - close_first].close()
    assert "step" not in vars(optimizer)
    first, second = opened("a"), opened("b")
    for step in (0, 2):
        for stage in ALL_STAGES:
            assert (first.matrix(step, "tall", stage) == second.matrix(step, "tall", stage)).all()
    assert first.last_step == (2 if close_first == 0 else 4)
    assert second.last_step == (4 if close_first == 0 else 2)


def test_a_copy_of_a_watched_optimizer_is_not_watched(
    watched, bag, train, opened, tmp_path
) -> None:
    class Plain:
        """No torch.optim.Optimizer, so that a copy takes the wrapped step along."""

        def __init__(self, params: list[nn.Parameter]) -> None:
            self.param_groups = [{"params": params, "lr": 1.0}]

        @torch.no_grad()
        def step(self) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)

    for optimizer_class in (Plain, lambda ps: torch.optim.SGD(ps, lr=1.0)):
        model = bag()
        optimizer = optimizer_class(list(model.parameters()))
        name = type(optimizer).__name__
        with watched(model, optimizer, out=tmp_path / name):
            train(model, optimizer, [0])
            before = model.tall.detach().clone()
            other = copy.deepcopy(optimizer)
            for p in other.param_groups[0]["params"]:
                p.grad = torch.ones_like(p)
            copied = other.param_groups[0]["params"][0].detach().clone()
            other.step()
            assert torch.equal(model.tall, before)
            assert not torch.equal(other.param_groups[0]["params"][0], copied)
        assert opened(name).last_step == 0


def test_a_watched_optimizer_can_be_pickled(watched, bag, train) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
        loaded = pickle.loads(pickle.dumps(optimizer))
    assert loaded.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
