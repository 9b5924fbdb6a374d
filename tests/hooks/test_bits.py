"""Watching changes no bit of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optgeom.optim import Muon, NorMuon

ALL_STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")
BUILDERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, weight_decay=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=False),
    "adamw-foreach": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=True),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
    "torch-muon": lambda ps: torch.optim.Muon(ps, lr=0.01),
    "normuon": lambda ps: NorMuon(ps, lr=0.01),
    "muon": lambda ps: Muon(ps, lr=0.01, weight_decay=0.1),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.up = nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        # dropout draws from the global generator: its state shows if anything of ours draws too
        return self.down(torch.nn.functional.dropout(self.up(x).relu(), 0.1))


def loss_of(model: nn.Module) -> Tensor:
    x = torch.randn(32, 8)
    return (model(x) - x.flip(1)).square().mean()


def run(build: Callable[[Any], Any], steps: int, watch: Callable[..., Any] | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = Net()
    optimizer = build(model.parameters())
    recorder = None if watch is None else watch(model, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.log(loss=loss)
        if step == 3 and recorder is not None:
            recorder.capture_next()
    if recorder is not None:
        recorder.close()
    return [p.detach().clone() for p in model.parameters()] + [torch.get_rng_state()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_run_is_bitwise_the_same_with_and_without_watching(name: str, watched) -> None:
    plain = run(BUILDERS[name], 8, None)
    seen = run(BUILDERS[name], 8, lambda *a: watched(*a, every=2, stages=ALL_STAGES))
    assert same(plain, seen)


def spectral_norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix, 2)


class Normalized(torch.optim.Optimizer):
    """Calls what a dispatch mode would answer with other bits."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad / spectral_norm(p.grad), alpha=-0.1)


def test_an_optimizer_that_asks_for_singular_values_keeps_its_bits(
    watched, bag, train, opened
) -> None:
    weights = []
    for watch in (None, watched):
        model = bag(shapes={"weight": (40, 30)})
        optimizer = Normalized(model.parameters())
        recorder = watch(model, optimizer) if watch is not None else None
        train(model, optimizer, range(6))
        if recorder is not None:
            recorder.close()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)
    assert set(opened().metrics()["source"].to_pylist()) == {"difference"}


def test_a_hidden_call_for_singular_values_is_found_at_the_first_capture(
    watched, bag, train, opened, tmp_path
) -> None:
    class Hidden(torch.optim.Optimizer):
        norm = staticmethod(torch.linalg.svdvals)

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad / self.norm(p.grad)[0])

    class Vectors(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(torch.linalg.svd(p.grad, full_matrices=False)[0] @ torch.eye(5))

    sources = {}
    for cls in (Hidden, Vectors):
        model = bag(shapes={"weight": (8, 5)})
        with watched(
            model, cls(model.parameters(), {"lr": 1.0}), out=tmp_path / cls.__name__
        ) as recorder:
            train(model, recorder._optimizers[0], range(3))
        sources[cls] = opened(cls.__name__).metrics()["source"].to_pylist()
    assert sources[Hidden] == ["dispatch", "difference", "difference"]
    assert sources[Vectors] == ["dispatch"] * 3
