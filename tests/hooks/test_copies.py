"""Several recorders; copies and pickles of what is watched; what is left when all is dropped."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import numpy as np
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


class Plain:
    """No torch.optim.Optimizer: nothing of torch's decides what a pickle holds."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.param_groups = [{"params": params, "lr": 1.0}]

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad)


def through_pickle(optimizer: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


def through_torch(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("through", [through_pickle, through_torch, copy.deepcopy])
@pytest.mark.parametrize("kind", ["plain", "torch", "scheduled"])
def test_a_watched_optimizer_can_be_saved_whole(
    through: Any, kind: str, watched, bag, train, opened
) -> None:
    model = bag()
    params = list(model.parameters())
    optimizer = Plain(params) if kind == "plain" else torch.optim.AdamW(params, lr=0.1)
    with watched(model, optimizer) as recorder:
        if kind == "scheduled":
            torch.optim.lr_scheduler.StepLR(optimizer, 1)
        train(model, optimizer, [0])
        loaded = through(optimizer)
        before = model.tall.detach().clone()
        params = loaded.param_groups[0]["params"]
        copied = params[0].detach().clone()
        for p in params:
            p.grad = torch.ones_like(p)
        loaded.step()
        assert not torch.equal(params[0], copied)
        assert torch.equal(model.tall, before)
        assert recorder.step == 1
        train(model, optimizer, [1])
    assert opened().steps("tall").tolist() == [0, 1]


def test_state_dicts_hold_nothing_of_ours(watched, bag, train) -> None:
    model, plain = bag(), bag()
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.1) for one in (model, plain)]
    with watched(model, optimizers[0]):
        for one, optimizer in zip((model, plain), optimizers, strict=True):
            train(one, optimizer, range(3))
        files = []
        for optimizer in optimizers:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            files.append(file.getvalue())
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert files[0] == files[1]


def test_a_copy_of_a_watched_model_trains_unwatched(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        other = copy.deepcopy(model)
        own = torch.optim.AdamW(other.parameters(), lr=0.1)
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(other, own, [1, 2])
        train(model, optimizer, [1, 2])
        assert recorder.step == 3
    assert torch.equal(model.tall, other.tall)
    assert opened().steps("tall").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=False),
        lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=True),
        lambda ps: NorMuon(ps, lr=0.1),
    ],
    ids=["for-loop", "foreach", "normuon"],
)
def test_gradients_go_when_the_loop_lets_them_go(make: Any, watched) -> None:
    layer = nn.Linear(40, 30, bias=False)
    optimizer = make(layer.parameters())
    gc.disable()  # which would find it out some time later, and with it a copy of the model
    try:
        with watched(layer, optimizer):
            for _ in range(4):
                values = np.ones((30, 40), dtype=np.float32)
                memory = weakref.ref(values)  # lives as long as the gradient's storage
                layer.weight.grad = torch.from_numpy(values)
                del values
                optimizer.step()
                assert memory() is not None
                optimizer.zero_grad()
                assert memory() is None
    finally:
        gc.enable()
