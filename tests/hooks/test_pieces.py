"""Pieces end to end: what the trace holds of each is what slicing by hand finds in the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optgeom.hooks import View
from optgeom.optim import NorMuon

VIEWS = {
    "attention.qkv": View(split="qkv"),
    "mlp.gate_up": View(split="gate_up"),
    "attention.o": View(heads=2),
}


class Conv1D(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


class SomeExperts(nn.Module):
    """Stored (experts, in, out), gate and up side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 24))
        self.down_proj = nn.Parameter(torch.randn(3, 12, 8))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"c_attn": Conv1D(8, 24), "o_proj": nn.Linear(8, 8, bias=False)})
        self.experts = SomeExperts()
        self.upward = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        self.plain = nn.Linear(8, 5, bias=False)


def by_hand(model: Model, of: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """Every piece of some tensor of each parameter, rows = neurons, by plain indexing."""
    fused, stack = of(model.attn["c_attn"].weight), of(model.experts.gate_up_proj)
    down, out = of(model.experts.down_proj), of(model.attn["o_proj"].weight)
    kernel = of(model.upward.weight)  # (2 groups of 2 inputs, 3 outputs of a group, 3, 3)
    return {
        **{f"attn.c_attn[{p}]": fused[:, 8 * i : 8 * i + 8].T for i, p in enumerate("qkv")},
        **{f"attn.o_proj[h{h}]": out[:, 4 * h : 4 * h + 4] for h in range(2)},
        **{f"experts.gate_up_proj[{e}][gate]": stack[e, :, :12].T for e in range(3)},
        **{f"experts.gate_up_proj[{e}][up]": stack[e, :, 12:].T for e in range(3)},
        **{f"experts.down_proj[{e}]": down[e].T for e in range(3)},
        "upward": torch.stack(
            [kernel[2 * g : 2 * g + 2, o].flatten() for g in range(2) for o in range(3)]
        ),
        "plain": of(model.plain.weight),
    }


def normuon(parameters: list[nn.Parameter]) -> NorMuon:
    matrices = [p for p in parameters if p.ndim < 4]
    rest = [p for p in parameters if p.ndim == 4]
    return NorMuon(
        [{"params": matrices}, {"params": rest, "algorithm": "adamw", "lr": 0.01}], lr=0.01
    )


@pytest.mark.parametrize(
    "factory",
    [
        lambda ps: torch.optim.AdamW(ps, lr=0.01),
        lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=True),
        lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
        lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, weight_decay=0.1),
        normuon,
    ],
    ids=["for-loop", "foreach", "fused", "sgd", "normuon"],
)
def test_every_piece_is_recorded_as_it_was_applied(watched, opened, factory: Any) -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = factory(list(model.parameters()))
    stages = ("gradient", "update", "weight")
    recorder = watched(model, optimizer, views=VIEWS, stages=stages, strict=True)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    gradients = by_hand(model, lambda p: p.grad.clone())
    before = by_hand(model, lambda p: p.detach().clone())
    optimizer.step()
    recorder.close()
    after = by_hand(model, lambda p: p.detach())

    trace = opened()
    assert {layer.name for layer in trace.layers} == set(after)
    rows = {row["layer"]: row for row in trace.metrics(stages="update").to_pylist()}
    for name, weight in before.items():

        def stored(stage: str, name: str = name) -> Tensor:
            return torch.from_numpy(trace.matrix(0, name, stage).copy())

        update = stored("update")
        assert torch.allclose(stored("gradient"), gradients[name], atol=1e-6)
        assert torch.equal(stored("weight"), weight)
        rebuilt = (1 - rows[name]["decay"]) * weight - 0.01 * update
        assert torch.allclose(rebuilt, after[name], atol=1e-6)
        assert rows[name]["status"] == "ok"
        singular = torch.linalg.svdvals(update.double())
        found = torch.from_numpy(trace.spectrum(0, name).copy()).double()
        assert torch.allclose(found, singular, rtol=1e-4, atol=1e-6)
        norms = torch.from_numpy(trace.neuron_norms(0, name).copy())
        assert torch.allclose(norms, update.norm(dim=1), rtol=1e-5)


def test_pieces_cost_the_run_no_bit(watched) -> None:
    def trained(*, watching: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        if watching:
            watched(model, optimizer, views=VIEWS, strict=True)
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    pairs = zip(trained(watching=True), trained(watching=False), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_only_the_pieces_that_are_named_are_recorded(watched, opened) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layers = ["attention.k", r"gate_up_proj\[1\]"]
    with watched(model, optimizer, views=VIEWS, layers=layers, strict=True):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    trace = opened()
    assert [layer.name for layer in trace.layers] == [
        "attn.c_attn[k]",
        "experts.gate_up_proj[1][gate]",
        "experts.gate_up_proj[1][up]",
    ]
    gradient = model.experts.gate_up_proj.grad
    assert gradient is not None
    found = torch.from_numpy(trace.matrix(0, "experts.gate_up_proj[1][up]").copy())
    assert torch.allclose(found, gradient[1, :, 12:].T, atol=1e-6)
