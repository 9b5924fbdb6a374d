"""Saved, loaded into a fresh optimizer, continued: the same bits."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from optgeom.optim import FAMILIES, Muon, NorMuon

CASES = [(NorMuon, {"family": family}) for family in FAMILIES] + [(Muon, {})]


def build(cls: type, settings: dict[str, Any], dtype: torch.dtype) -> tuple[list, Any]:
    params = [
        nn.Parameter(torch.ones(6, 10, dtype=dtype)),
        nn.Parameter(torch.ones(4, dtype=dtype)),
    ]
    groups = [{"params": params[:1]}, {"params": params[1:], "algorithm": "adamw", "lr": 0.01}]
    return params, cls(groups, lr=0.05, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("cls", "settings"), CASES)
def test_continuing_from_a_file_gives_the_same_bits(
    cls: type, settings: dict[str, Any], dtype: torch.dtype, gradients
) -> None:
    matrices = gradients((6, 10), steps=5, dtype=dtype)
    vectors = gradients((4,), steps=5, seed=1, dtype=dtype)

    def train(params: list, optimizer: Any, steps: range) -> None:
        for step in steps:
            params[0].grad, params[1].grad = matrices[step].clone(), vectors[step].clone()
            optimizer.step()

    params, optimizer = build(cls, settings, dtype)
    train(params, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, file)
    train(params, optimizer, range(3, 5))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    others, fresh = build(cls, settings, dtype)
    fresh.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for other, weights in zip(others, saved["weights"], strict=True):
            other.copy_(weights)
    train(others, fresh, range(3, 5))

    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == fresh.state[q].keys()
        for name, value in optimizer.state[p].items():
            assert torch.equal(value, fresh.state[q][name])
            assert value.dtype == fresh.state[q][name].dtype
    plain = [
        [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
        for opt in (optimizer, fresh)
    ]
    assert plain[0] == plain[1]


def test_the_state_of_another_class_is_refused_and_nothing_is_loaded(gradients) -> None:
    params, muon = build(Muon, {}, torch.float32)
    [params[0].grad] = gradients((6, 10), steps=1)
    muon.step()
    _, normuon = build(NorMuon, {}, torch.float32)
    with pytest.raises(ValueError, match="group 0 is 'normuon' here and 'muon' in the state"):
        normuon.load_state_dict(muon.state_dict())
    assert not normuon.state


def test_the_state_of_torch_muon_is_refused() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    state = torch.optim.Muon([p], lr=0.1).state_dict()
    with pytest.raises(ValueError, match="None in the state"):
        NorMuon([p], lr=0.1).load_state_dict(state)


def test_another_number_of_groups_is_refused() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="different number of parameter groups"):
        NorMuon([p], lr=0.1).load_state_dict(build(NorMuon, {}, torch.float32)[1].state_dict())
