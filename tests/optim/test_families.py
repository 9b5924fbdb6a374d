"""The presets are the four published algorithms; settings can be overridden, not misspelt."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from optgeom.optim import FAMILIES, AdamWSettings, MuonSettings, NorMuonSettings, normuon_settings

TABLE: dict[str, dict[str, Any]] = {
    "paper": {
        "momentum_form": "ema",
        "nesterov": False,
        "coefficients": "jordan",
        "neuron_axis": "rows",
        "rescale": "rms",
        "rms": 0.2,
        "shape_factor": "none",
        "eps_form": "add",
        "weight_decay": 0.1,
    },
    "released": {
        "momentum_form": "ema",
        "nesterov": True,
        "coefficients": "jordan",
        "neuron_axis": "rows",
        "rescale": "norm_before",
        "shape_factor": "original",
        "eps_form": "add",
        "eps": 1e-10,
    },
    "dion": {
        "momentum_form": "heavy_ball",
        "nesterov": False,
        "coefficients": "polar_express",
        "neuron_axis": "rows",
        "rescale": "norm_before",
        "shape_factor": "spectral",
        "eps_form": "add",
        "eps": 1e-8,
    },
    "larger-axis": {
        "momentum_form": "ema",
        "nesterov": True,
        "coefficients": "polar_express",
        "neuron_axis": "larger",
        "rescale": "norm_before",
        "shape_factor": "original",
        "eps_form": "clamp",
        "eps": 1e-10,
    },
}


@pytest.mark.parametrize("family", TABLE)
def test_presets_are_the_table(family: str) -> None:
    settings = dataclasses.asdict(FAMILIES[family])
    assert {name: settings[name] for name in TABLE[family]} == TABLE[family]
    assert (settings["momentum"], settings["beta2"]) == (0.95, 0.95)
    assert set(TABLE) == set(FAMILIES)


def test_one_setting_changes_and_the_rest_stays() -> None:
    changed = dataclasses.asdict(normuon_settings("dion", neuron_axis="larger"))
    preset = dataclasses.asdict(FAMILIES["dion"])
    assert {name for name in preset if preset[name] != changed[name]} == {"neuron_axis"}


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAMILIES["paper"].beta2 = 0.5  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        FAMILIES["paper"] = FAMILIES["dion"]  # type: ignore[index]  # the point of the test


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("beta_2", "beta2"), ("nestrov", "nesterov"), ("weightdecay", "weight_decay")],
)
def test_a_misspelt_setting_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"no setting '{wrong}'; did you mean '{nearest}'"):
        normuon_settings("paper", **{wrong: 0.5})


def test_an_unknown_family_names_the_known() -> None:
    with pytest.raises(ValueError, match="family must be one of paper, released, dion"):
        normuon_settings("papers")


@pytest.mark.parametrize(
    "wrong",
    [
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum_form": "nesterov"},
        {"beta2": 1.5},
        {"eps": 0.0},
        {"eps": float("nan")},
        {"eps_form": "plus"},
        {"neuron_axis": "columns"},
        {"rescale": "frobenius"},
        {"rms": -0.2},
        {"shape_factor": "sqrt"},
        {"coefficients": "quintic"},
        {"ns_dtype": "float16"},
        {"ns_steps": 0},
        {"coefficients": "polar_express", "ns_steps": 7},
        {"weight_decay": -1.0},
        {"weight_decay": float("inf")},
    ],
)
def test_values_out_of_range_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        NorMuonSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"momentum": "0.95"}, {"nesterov": 1}, {"ns_steps": 5.0}, {"weight_decay": True}]
)
def test_values_of_a_wrong_type_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be"):
        NorMuonSettings(**wrong)


@pytest.mark.parametrize("betas", [(0.9,), 0.9, (0.9, 1.0), (-0.1, 0.9)])
def test_betas_are_two_fractions(betas: Any) -> None:
    with pytest.raises(ValueError, match="betas"):
        AdamWSettings(betas=betas)


def test_muon_scale_is_checked() -> None:
    with pytest.raises(ValueError, match="scale must be one of none, original, match_rms"):
        MuonSettings(scale="moonlight")  # type: ignore[arg-type]  # the point of the test
