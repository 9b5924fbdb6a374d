"""The run: deterministic, learning, refused before it starts or closed when it ends."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from optgeom.optim import Muon, NorMuon
from optgeom.traces.errors import OptgeomError, TraceExists
from optgeom.traces.store import open_trace
from optgeom.trainer import ConfigError, config_from_dict, train
from optgeom.trainer.denormals import denormals_are_zero
from optgeom.trainer.model import build_model
from optgeom.trainer.optimizers import build_optimizer, remember_peak, set_lr
from optgeom.trainer.parallelize import Ranks
from optgeom.trainer.progress import Silent

OPTIMIZERS = ["adamw", "muon", "normuon"]


class Told(Silent):
    """Remembers what it is told, and does something at a step."""

    def __init__(self, at: int = -1, act: Any = None) -> None:
        self.steps: list[tuple[int, float]] = []
        self.names: list[str] = []
        self._at, self._act = at, act

    def began(self, run: str, *, steps: int, parameters: int) -> None:
        self.names.append(f"{run} {steps} {parameters}")

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        self.steps.append((step, loss))
        if step == self._at:
            self._act()

    def ended(self, run: str, *, eval_loss: float, seconds: float) -> None:
        self.names.append(f"{run} {eval_loss}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equal_settings_give_equal_bits(tiny, name: str) -> None:
    config = tiny(optimizer__name=name)
    first, second = train(config), train(config)
    assert first.losses == second.losses
    assert first.eval_loss == second.eval_loss
    assert train(tiny(optimizer__name=name, seed=1)).losses != first.losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_watching_changes_no_bit(tiny, tmp_path: Path, name: str) -> None:
    config = tiny(optimizer__name=name)
    watched = train(config, out=tmp_path / "run")
    assert watched.losses == train(config).losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loss_falls(tiny, name: str) -> None:
    result = train(tiny(optimizer__name=name, schedule__steps=80, optimizer__lr=0.02))
    assert sum(result.losses[-5:]) / 5 < result.losses[0] - 1.5
    assert result.eval_loss < result.losses[0] - 1.5
    assert result.tokens == 80 * 8 * 16


@pytest.mark.parametrize("form", [{"model__mlp": "gated", "model__kv_heads": 1}, {"clip": 0.1}])
def test_every_form_of_run_goes_through(tiny, form: Mapping[str, Any]) -> None:
    plain, formed = train(tiny()), train(tiny(**form))
    assert formed.losses != plain.losses
    assert all(loss == loss for loss in formed.losses)


def test_the_trace_says_what_was_run(tiny, tmp_path: Path) -> None:
    config = tiny(eval_every=2, capture__stages="gradient,update", capture__updates_every=4)
    result = train(config, out=tmp_path / "run", labels={"why": "a test"})
    trace = open_trace(str(tmp_path / "run"))
    kept = dict(trace.info.config)
    assert kept.pop("why") == "a test"
    assert config_from_dict(kept) == config
    assert trace.closed
    assert set(trace.stages) == {"gradient", "update"}
    assert trace.steps().tolist() == [0, 2, 4]
    scalars = trace.scalars().to_pylist()
    losses = {row["step"]: row["value"] for row in scalars if row["name"] == "loss"}
    assert losses == dict(enumerate(result.losses))
    tokens = {row["step"]: row["value"] for row in scalars if row["name"] == "tokens"}
    assert tokens == {step: (step + 1) * 128.0 for step in range(5)}
    rates = {row["step"]: row["value"] for row in scalars if row["name"] == "lr"}
    assert rates[1] == config.optimizer.lr
    assert rates[4] == pytest.approx(0.1 * config.optimizer.lr)
    evaluated = [row["step"] for row in scalars if row["name"] == "eval_loss"]
    assert evaluated == [1, 3, 4]
    assert {"step_seconds", "capture_seconds"} <= {row["name"] for row in scalars}


def test_the_last_step_is_captured_whole(tiny, tmp_path: Path) -> None:
    train(tiny(schedule__steps=6, capture__updates_every=4), out=tmp_path / "run")
    trace = open_trace(str(tmp_path / "run"))
    assert trace.steps().tolist() == [0, 2, 4, 5]
    assert trace.steps("blocks.1.mlp.up", table="updates").tolist() == [0, 4, 5]
    train(tiny(schedule__steps=6, capture__last_step=False), out=tmp_path / "other")
    assert open_trace(str(tmp_path / "other")).steps().tolist() == [0, 2, 4]


def test_an_existing_trace_is_refused_and_left_as_it_is(tiny, tmp_path: Path) -> None:
    train(tiny(), out=tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    told = Told()
    with pytest.raises(TraceExists):
        train(tiny(), out=tmp_path / "run", listener=told)
    assert not told.steps
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"data__corpus": "/nowhere/*.txt"},
        {"data__sequence": 100_000},
        {"optimizer__settings": {"nesterow": True}},
        {"optimizer__family": "other"},
        {"capture__stages": ("updates",)},
        {"capture__layers": ("no_such_layer",)},
    ],
)
def test_what_cannot_work_is_refused_with_nothing_left_behind(
    tiny, tmp_path: Path, wrong: Mapping[str, Any]
) -> None:
    with pytest.raises(OptgeomError) as caught:
        train(tiny(**wrong), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_ends_after_a_whole_step_and_closes_the_trace(tiny, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    told = Told(at=2, act=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tiny(schedule__steps=50), out=tmp_path / "run", listener=told)
    assert signal.getsignal(signal.SIGINT) is before
    assert told.steps[-1][0] == 3
    trace = open_trace(str(tmp_path / "run"))
    assert trace.closed
    losses = [row for row in trace.scalars().to_pylist() if row["name"] == "loss"]
    assert [row["step"] for row in losses] == [0, 1, 2, 3]


def test_denormal_numbers_are_zero_during_the_run_alone(tiny) -> None:
    during: list[bool] = []
    told = Told(at=1, act=lambda: during.append(denormals_are_zero()))
    train(tiny(), listener=told)
    assert during == [torch.set_flush_denormal(False)]
    assert not denormals_are_zero()


def test_a_listener_is_told_of_every_step(tiny) -> None:
    told = Told()
    result = train(tiny(), run="mine", listener=told)
    assert told.names == [f"mine 5 {result.parameters}", f"mine {result.eval_loss}"]
    assert told.steps == list(enumerate(result.losses))


def test_a_batch_that_ranks_cannot_share_is_told() -> None:
    ranks = Ranks(rank=2, world=3, device=torch.device("cpu"))
    assert ranks.slice(12) == slice(8, 12)
    with pytest.raises(ConfigError, match=r"multiple of the number of ranks \(3\), got 8: use 9"):
        ranks.slice(8)


def test_a_gpu_that_is_not_there_is_told(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda' needs a GPU"):
        train(tiny(device="cuda"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hidden_matrices_alone_are_decayed_and_every_weight_has_its_rate(tiny, name: str) -> None:
    config = tiny(optimizer__name=name, optimizer__lr=0.5, optimizer__adamw_lr=0.25)
    model = build_model(config.model, length=16, seed=0)
    optimizer = build_optimizer(model, config.optimizer)
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen = []
    remember_peak(optimizer)
    set_lr(optimizer, 0.5)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            seen.append(names[id(weight)])
            hidden = weight.ndim == 2 and seen[-1].startswith("blocks.")
            assert (group["weight_decay"] > 0) == hidden
            assert group["lr"] == (0.25 if hidden and name != "adamw" else 0.125)
    assert sorted(seen) == sorted(names.values())


def test_muon_and_normuon_take_the_settings_given(tiny) -> None:
    config = tiny(optimizer__name="muon", optimizer__momentum=0.9).optimizer
    muon = build_optimizer(build_model(tiny().model, length=16, seed=0), config)
    assert isinstance(muon, Muon)
    assert muon.param_groups[0]["scale"] == "match_rms"
    assert muon.param_groups[0]["momentum"] == 0.9
    config = tiny(optimizer__family="larger-axis", optimizer__settings__beta2=0.9).optimizer
    normuon = build_optimizer(build_model(tiny().model, length=16, seed=0), config)
    assert isinstance(normuon, NorMuon)
    assert normuon.param_groups[0]["neuron_axis"] == "larger"
    assert normuon.param_groups[0]["beta2"] == 0.9
