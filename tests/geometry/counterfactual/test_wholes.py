"""Pieces of a fused parameter enter as the matrix that they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import optgeom
from optgeom.geometry.counterfactual.entering import IN_PIECES
from optgeom.geometry.counterfactual.wholes import wholes
from optgeom.hooks import View
from optgeom.optim import NorMuon
from optgeom.rules import RULES, rule_named
from optgeom.traces.info import LayerInfo
from tests.geometry.counterfactual.training import apart

PIECES = tuple(f"blocks.0.attn.c_attn[{one}]" for one in "qkv")
VIEWS = {"c_attn": View(split="qkv", repeats=2)}
"""Two heads, each with its own q, k and v, as GPT-NeoX keeps them."""


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        attention = nn.ModuleDict({"c_attn": nn.Linear(8, 24, bias=False)})
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": attention})])


def _run(folder: Path, layers: str | None = None) -> optgeom.Trace:
    torch.manual_seed(0)
    model = Fused()
    optimizer = NorMuon(list(model.parameters()), lr=0.01, ns_dtype="float32")
    with optgeom.watch(
        model,
        optimizer,
        folder,
        every=1,
        updates_every=1,
        budget=None,
        layers=layers,
        views=VIEWS,
        stages=("update", "ns_input"),
    ):
        for _ in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    return optgeom.open_trace(folder)


def test_the_whole_is_orthogonalized_and_rescaled(tmp_path: Path) -> None:
    trace = _run(tmp_path / "a")
    assert [layer.name for layer in trace.layers] == list(PIECES)
    found = optgeom.whatif(trace, updates=True)
    computed = found.traces["normuon"]
    for name in PIECES:
        for step in range(4):
            assert apart(computed.matrix(step, name), trace.matrix(step, name)) < 1e-5
    assert computed.info.computed["caveats"] == {}
    assert computed.info.computed["input"] == {"ns_input": 3}
    # one that is named is computed with the others, and written alone
    one = optgeom.whatif(trace, updates=True, layers=PIECES[1], overwrite=True).traces["normuon"]
    assert [layer.name for layer in one.layers] == [PIECES[1]]
    assert apart(one.matrix(3, PIECES[1]), trace.matrix(3, PIECES[1])) < 1e-5


def test_a_piece_without_the_others_is_said_to_be_one(tmp_path: Path) -> None:
    trace = _run(tmp_path / "a", layers="attention.q")
    found = optgeom.whatif(trace)
    assert found.traces["normuon"].info.computed["caveats"] == {IN_PIECES: 1}
    assert any(IN_PIECES in said for said in found.findings("normuon"))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_the_order_of_rows_and_columns_does_not_matter(name: str, shape: tuple[int, int]) -> None:
    """So that interleaved pieces may be put one after another."""
    rule = rule_named(name, ns_dtype="float32")
    draw = np.random.default_rng(0)
    matrix = torch.from_numpy(draw.standard_normal(shape).astype(np.float32))
    rows, cols = (torch.from_numpy(draw.permutation(size)) for size in shape)
    one = rule.apply(matrix[rows][:, cols].contiguous(), None, None).update
    other = rule.apply(matrix, None, None).update[rows][:, cols]
    assert apart(one.numpy(), other.numpy()) < 1e-5


def _layer(
    name: str, shape: tuple[int, int], split: str | None = None, stored: tuple[int, ...] = ()
) -> LayerInfo:
    parameter = name.partition("[")[0] if split else None
    return LayerInfo(
        name, "other", 0, shape, "float32", "x", 0, split=split, parameter=parameter, stored=stored
    )


def test_which_layers_make_one_matrix() -> None:
    stack = (2, 16, 4)
    layers = (
        _layer("plain", (8, 4), stored=(8, 4)),
        _layer("up[0]", (16, 4), "0", stack),
        _layer("up[1]", (16, 4), "1", stack),
        *(
            _layer(f"gate_up[{expert}][{part}]", (8, 4), f"{expert},{part}", stack)
            for expert in (0, 1)
            for part in ("gate", "up")
        ),
        _layer("heads[0]", (8, 2), "head0", (8, 4)),
        _layer("heads[1]", (8, 2), "head1", (8, 4)),
        _layer("some[q]", (8, 4), "q", (24, 4)),
        _layer("old[q]", (8, 4), "q"),
    )
    found = wholes(layers)
    assert [[layer.name for layer in one.layers] for one in found] == [
        ["plain"],
        ["up[0]"],
        ["up[1]"],
        ["gate_up[0][gate]", "gate_up[0][up]"],
        ["gate_up[1][gate]", "gate_up[1][up]"],
        ["heads[0]", "heads[1]"],
        ["some[q]"],
        ["old[q]"],
    ]
    assert [one.is_part for one in found] == [False] * 6 + [True] * 2
    assert [one.shape for one in found[3:6]] == [(16, 4), (16, 4), (8, 4)]
    assert found[5].axis == 1
    pieces = [torch.full((8, 2), float(place)) for place in (0, 1)]
    cut = found[5].cut(found[5].joined(pieces))
    assert all((one == other).all() for one, other in zip(cut, pieces, strict=True))
