"""Groups: completed from the optimizer's settings, validated where they are made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optgeom.optim import Muon, NorMuon


def matrix(rows: int = 4, cols: int = 6) -> nn.Parameter:
    return nn.Parameter(torch.zeros(rows, cols))


def test_a_group_holds_every_setting_of_its_algorithm_and_no_other() -> None:
    groups = [
        {"params": [matrix()], "beta2": 0.5},
        {"params": [nn.Parameter(torch.zeros(3))], "algorithm": "adamw", "lr": 0.01},
    ]
    matrices, rest = NorMuon(groups, lr=0.1, family="dion", nesterov=True).param_groups
    assert matrices["algorithm"] == "normuon"
    assert (matrices["beta2"], matrices["nesterov"], matrices["shape_factor"]) == (
        0.5,
        True,
        "spectral",
    )
    assert matrices["ns_steps"] == 5
    assert set(rest) == {"params", "algorithm", "lr", "betas", "eps", "weight_decay"}


def test_given_dictionaries_stay_as_they_were() -> None:
    groups: list[dict[str, Any]] = [{"params": [matrix()], "lr": 0.3}]
    for cls in (NorMuon, Muon):
        assert cls(groups, lr=0.1).param_groups[0]["lr"] == 0.3
    assert set(groups[0]) == {"params", "lr"}


def test_names_are_kept() -> None:
    model = nn.Linear(4, 6, bias=False)
    [group] = NorMuon(list(model.named_parameters()), lr=0.1).param_groups
    assert group["param_names"] == ["weight"]


@pytest.mark.parametrize("cls", [NorMuon, Muon])
def test_unmarked_vectors_name_the_helper(cls: type) -> None:
    with pytest.raises(ValueError, match=r"shape \(4,\) has 1 dimension.*param_groups\(model\)"):
        cls([matrix(), nn.Parameter(torch.zeros(4))], lr=0.1)
    with pytest.raises(ValueError, match=r"parameter 'bias' of shape \(6,\)"):
        cls(nn.Linear(4, 6).named_parameters(), lr=0.1)


def test_convolutions_are_refused_by_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4, 4\) has 4 dimensions: mark its group"):
        NorMuon([nn.Parameter(torch.zeros(2, 3, 4, 4))], lr=0.1)


def test_complex_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="real matrices"):
        NorMuon([nn.Parameter(torch.zeros(2, 3, dtype=torch.complex64))], lr=0.1)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = NorMuon([{"params": table.weight, "algorithm": "adamw", "lr": 0.1}], lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    "lr", [-0.1, float("nan"), float("inf"), torch.tensor([0.1, 0.2])], ids=str
)
def test_lr_out_of_range_raises(lr: Any) -> None:
    with pytest.raises(ValueError, match="lr"):
        NorMuon([matrix()], lr=lr)
    with pytest.raises(ValueError, match="lr"):
        NorMuon([{"params": [matrix()], "lr": lr}], lr=0.1)


@pytest.mark.parametrize("lr", ["0.1", None, True])
def test_lr_of_a_wrong_type_raises(lr: Any) -> None:
    with pytest.raises(TypeError, match="lr must be a number"):
        NorMuon([matrix()], lr=lr)


def test_adamw_groups_bring_their_own_lr() -> None:
    with pytest.raises(ValueError, match="needs its own lr"):
        NorMuon([{"params": [matrix()], "algorithm": "adamw"}], lr=0.1)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"beta_2": 0.9}, "did you mean 'beta2'"),
        ({"algorithm": "adamw", "lr": 0.1, "beta": (0.9, 0.9)}, "did you mean 'betas'"),
        ({"use_muon": True}, "NorMuon .a group of algorithm 'normuon'. has no setting 'use_muon'"),
    ],
)
def test_unknown_settings_of_a_group_raise(group: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        NorMuon([{"params": [matrix()], **group}], lr=0.1)


def test_unknown_settings_of_the_optimizer_raise() -> None:
    with pytest.raises(TypeError, match="Muon has no setting 'momentun'; did you mean 'momentum'"):
        Muon([matrix()], lr=0.1, momentun=0.9)


def test_unknown_algorithms_raise() -> None:
    with pytest.raises(ValueError, match="algorithm must be one of muon, adamw; got 'normuon'"):
        Muon([{"params": [matrix()], "algorithm": "normuon"}], lr=0.1)


def test_a_group_that_is_none_raises() -> None:
    optimizer = NorMuon([matrix()], lr=0.1)
    with pytest.raises(TypeError, match="a dict with 'params'"):
        optimizer.add_param_group({"lr": 0.1})


def test_added_groups_are_validated_and_trained(gradients) -> None:
    optimizer = NorMuon([matrix()], lr=0.1, family="released")
    with pytest.raises(ValueError, match="param_groups"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4))]})
    assert len(optimizer.param_groups) == 1
    late = matrix()
    optimizer.add_param_group({"params": late, "momentum": 0.5})
    assert optimizer.param_groups[1]["shape_factor"] == "original"
    [late.grad] = gradients((4, 6), steps=1)
    optimizer.step()
    assert late.abs().sum() > 0
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": late})


def test_a_setting_spoilt_in_flight_raises_at_the_step(gradients) -> None:
    p = matrix()
    optimizer = NorMuon([p], lr=0.1)
    optimizer.param_groups[0]["neuron_axis"] = "row"
    [p.grad] = gradients((4, 6), steps=1)
    with pytest.raises(ValueError, match="neuron_axis must be one of rows, larger; got 'row'"):
        optimizer.step()
