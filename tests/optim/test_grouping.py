"""Which parameters are hidden matrices."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from optgeom.optim import Muon, NorMuon, param_groups


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.output = nn.Linear(8, 8)
        self.gate = nn.Linear(8, 1)
        self.experts = nn.Parameter(torch.zeros(3, 16, 8))
        self.relative_bias_table = nn.Parameter(torch.zeros(5, 2))


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tok = nn.Embedding(50, 8)
        self.position = nn.Parameter(torch.zeros(1, 12, 8))
        self.stem = nn.Conv1d(8, 8, 3)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.lm_head = nn.Linear(8, 50, bias=False)
        if tied:
            self.lm_head.weight = self.tok.weight


def names(model: nn.Module, **options) -> dict[str, list[str]]:
    groups = param_groups(model, **options)
    return {group.get("algorithm", "matrix"): group["param_names"] for group in groups}


def test_hidden_matrices_and_stacks_are_found_and_nothing_else() -> None:
    found = names(Model())
    per_block = ("experts", "qkv.weight", "output.weight")
    assert found["matrix"] == [f"blocks.{i}.{leaf}" for i in range(2) for leaf in per_block]
    everything = {name for name, _ in Model().named_parameters()}
    assert set(found["matrix"]) | set(found["adamw"]) == everything
    assert len(found["matrix"]) + len(found["adamw"]) == len(everything)


def test_tied_weights_appear_once_and_are_the_heads() -> None:
    found = names(Model(tied=True))
    assert "tok.weight" in found["adamw"]
    assert not any(name.startswith("lm_head") for group in found.values() for name in group)

    class TiedHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 8, bias=False)
            self.head = nn.Linear(8, 8, bias=False)
            self.head.weight = self.project.weight

    assert names(TiedHead()) == {"adamw": ["project.weight"]}


def test_a_module_used_twice_is_counted_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(layer, layer)
    assert names(model) == {"matrix": ["0.weight"]}
    assert names(model, overrides={"1.weight": "adamw"}) == {"adamw": ["0.weight"]}


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.blocks[0].requires_grad_(False)
    assert not any(name.startswith("blocks.0") for group in names(model).values() for name in group)


def test_the_head_that_a_model_names_itself_is_believed() -> None:
    class WithGetter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.words = nn.Linear(4, 4, bias=False), nn.Linear(4, 9, bias=False)

        def get_output_embeddings(self) -> nn.Module:
            return self.words

    assert names(WithGetter()) == {"matrix": ["body.weight"], "adamw": ["words.weight"]}


def test_overrides_win_in_order() -> None:
    overrides = {"blocks.0.qkv.*": "skip", "*.qkv.weight": "adamw", "lm_head.*": "matrix"}
    found = names(Model(), overrides=overrides)
    assert "blocks.1.qkv.weight" in found["adamw"]
    assert "lm_head.weight" in found["matrix"]
    assert not any("blocks.0.qkv.weight" in group for group in found.values())


def test_overrides_match_any_name_of_a_tied_weight() -> None:
    assert "tok.weight" in names(Model(tied=True), overrides={"lm_head.*": "matrix"})["matrix"]


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'blocks.\*.kqv.weight' matches no parameter.*qkv"):
        param_groups(Model(), overrides={"blocks.*.kqv.weight": "adamw"})


def test_a_choice_that_is_none_raises() -> None:
    with pytest.raises(ValueError, match="must be one of matrix, adamw, skip; got 'muon'"):
        param_groups(Model(), overrides={"*qkv*": "muon"})  # type: ignore[dict-item]  # the point of the test


def test_a_model_without_parameters_raises() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        param_groups(nn.ReLU())


def test_settings_reach_their_groups() -> None:
    matrices, rest = param_groups(
        Model(),
        lr=0.02,
        adamw_lr=0.003,
        matrix_settings={"weight_decay": 0.2},
        adamw_settings={"betas": (0.8, 0.9)},
    )
    assert (matrices["lr"], matrices["weight_decay"]) == (0.02, 0.2)
    assert (rest["lr"], rest["betas"], rest["algorithm"]) == (0.003, (0.8, 0.9), "adamw")
    with pytest.raises(TypeError, match="did you mean 'betas'"):
        param_groups(Model(), adamw_settings={"beta": 1})
    with pytest.raises(ValueError, match="lr must be finite"):
        param_groups(Model(), adamw_lr=-1.0)


def test_one_list_of_groups_serves_both_optimizers() -> None:
    groups = param_groups(Model(), adamw_lr=0.01)
    for cls in (NorMuon, Muon):
        matrices, rest = cls(groups, lr=0.1).param_groups
        assert (matrices["lr"], rest["lr"]) == (0.1, 0.01)
        assert matrices["param_names"][0] == "blocks.0.experts"


def test_the_decision_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="optgeom.optim"):
        param_groups(Model())
    text = caplog.text
    assert "matrix: hidden matrix, 512 values: blocks.*.qkv.weight (2)" in text
    assert "adamw: embedding, 400 values: tok.weight (1)" in text
    assert "adamw: head, 400 values: lm_head.weight (1)" in text
    assert "adamw: a single row or column, 16 values: blocks.*.gate.weight (2)" in text


def test_a_model_without_matrices_warns(caplog: pytest.LogCaptureFixture) -> None:
    assert names(nn.LayerNorm(4)) == {"adamw": ["weight", "bias"]}
    assert "no hidden matrix" in caplog.text
