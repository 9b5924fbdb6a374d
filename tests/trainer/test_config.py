"""Settings: every wrong one is told in one line, every right one survives the way to a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optgeom.trainer import ConfigError, config_from_dict, load_config, presets
from optgeom.trainer.config import ModelConfig, OptimizerConfig, TrainConfig
from optgeom.trainer.demo import RUNS, demo_config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"model.width": 0}, "model.width must be above 0, got 0"),
        ({"model.width": 100}, "multiple of 2 x model.heads (8), got 100"),
        ({"model.kv_heads": 3}, "model.kv_heads must divide model.heads (4), got 3"),
        ({"model.vocab_size": 64}, "the corpus is read as bytes"),
        ({"model.mlp": "gelu"}, 'model.mlp must be one of "relu2", "gated", got \'gelu\''),
        ({"model.width": "wide"}, "model.width must be a whole number, got 'wide'"),
        ({"model.width": 64.5}, "model.width must be a whole number, got 64.5"),
        ({"model.blocks": True}, "model.blocks must be a whole number, got True"),
        ({"data.sequence": 0}, "data.sequence must be above 0"),
        ({"data.corpus": ()}, "data.corpus must name something"),
        ({"data.held_out": 0.7}, "data.held_out must lie above 0 and at most at 0.5, got 0.7"),
        ({"optimizer.lr": "nan"}, "optimizer.lr must be above 0, got nan"),
        ({"optimizer.lr": "inf"}, "optimizer.lr must be above 0, got inf"),
        ({"optimizer.betas": [0.9]}, "optimizer.betas must be two numbers"),
        ({"optimizer.betas": ["a", "b"]}, "optimizer.betas must be a list of numbers"),
        ({"optimizer.momentum": 1.0}, "optimizer.momentum must lie in [0, 1), got 1.0"),
        ({"optimizer.weight_decay": -1}, "optimizer.weight_decay must not be negative"),
        ({"optimizer.name": "adamw", "optimizer.settings.beta2": 0.9}, "leave it out under adamw"),
        ({"optimizer.settings": 3}, "optimizer.settings must be a table of settings, got 3"),
        ({"schedule.warmup": 400}, "schedule.warmup must be below schedule.steps (400), got 400"),
        ({"schedule.final": 1.5}, "schedule.final must lie in [0, 1]"),
        ({"capture.every": 10, "capture.spectra_every": 25}, "multiple of capture.every (10)"),
        ({"capture.stages": ()}, "capture.stages must name a stage"),
        ({"capture.budget": 0}, "capture.budget must be above 0"),
        ({"clip": 0}, "clip must be above 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"model": 3}, "model is a section of settings, got 3"),
        ({"seed.more": 3}, "seed must be a whole number, got {'more': 3}"),
        ({"model": 3, "model.width": 8}, "'model' in 'model.width' is a setting"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(override: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=override)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("model.widht", "model.width"),
        ("width", "model.width"),
        ("optimiser.lr", "optimizer.lr"),
        ("schedule.step", "schedule.steps"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest_name(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{name}.*did you mean '{nearest}'"):
        load_config(overrides={name: 3})


def test_text_of_a_command_line_becomes_the_setting_s_type() -> None:
    config = load_config(
        overrides={
            "model.kv_heads": "2",
            "optimizer.lr": "1e-2",
            "optimizer.betas": "0.8,0.9",
            "optimizer.settings.nesterov": "false",
            "optimizer.settings.ns_dtype": "float32",
            "capture.stages": "update,gradient",
            "capture.budget": "none",
            "capture.last_step": "false",
            "data.corpus": "a.txt",
            "clip": "1",
        }
    )
    assert config.model.kv_heads == 2
    assert config.optimizer.lr == 0.01
    assert config.optimizer.betas == (0.8, 0.9)
    assert config.optimizer.settings == {"nesterov": False, "ns_dtype": "float32"}
    assert config.capture.stages == ("update", "gradient")
    assert config.capture.budget is None
    assert config.capture.last_step is False
    assert config.data.corpus == ("a.txt",)
    assert isinstance(config.clip, float)


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 3\n[model]\nwidth = 64\n[optimizer]\nname = "muon"\n')
    config = load_config(path, overrides={"model.width": 32})
    assert (config.seed, config.model.width, config.model.blocks) == (3, 32, 4)
    assert config.optimizer.name == "muon"


@pytest.mark.parametrize("content", [None, "seed = ", b"\xff\xfe"])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=r"run\.toml"):
        load_config(path)


@pytest.mark.parametrize("config", [TrainConfig(), *map(demo_config, RUNS)])
def test_settings_survive_json(config: TrainConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_load() -> None:
    assert "demo" in presets()
    for name in presets():
        assert load_config(name).data.corpus == ("stdlib",)


def test_the_demo_s_runs_differ_in_the_optimizer_alone() -> None:
    adamw, muon, normuon = (demo_config(run).to_dict() for run in RUNS)
    for one in (adamw, muon, normuon):
        assert one.pop("optimizer")["name"] in RUNS
        one["capture"].pop("stages")
    assert adamw == muon == normuon
    muon_rule, normuon_rule = (demo_config(run).optimizer for run in ("muon", "normuon"))
    assert muon_rule.lr == normuon_rule.lr
    assert muon_rule.settings == normuon_rule.settings


def test_what_is_left_out_follows_from_the_rest() -> None:
    assert ModelConfig(width=96, heads=4).neurons == 384
    assert ModelConfig(width=96, heads=4, mlp="gated").neurons == 256
    assert ModelConfig(width=96, heads=4, mlp_width=10).neurons == 10
    assert ModelConfig(heads=8, kv_heads=2).key_value_heads == 2
    assert ModelConfig(heads=8).key_value_heads == 8


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        OptimizerConfig().lr = 1.0  # type: ignore[misc]  # the point of the test
