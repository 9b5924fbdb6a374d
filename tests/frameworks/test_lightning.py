"""The real Lightning Trainer, with and without the callback."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import optgeom
from optgeom.frameworks import LightningCallback
from optgeom.hooks import WatchError
from tests.frameworks.loops import Blocks, batch, loss_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*LeafSpec:DeprecationWarning",
    "ignore:.*does not have many workers",
    "ignore:.*smaller than the logging interval",
)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
}


class Batches(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> Tensor:
        return batch(place)


class Module(pl.LightningModule):
    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.net = Blocks()
        self.losses: list[float] = []
        self.fails_at = fails_at

    def training_step(self, x: Tensor, place: int) -> Tensor:
        if len(self.losses) == self.fails_at:
            self.fails_at = None
            raise RuntimeError("out of memory")
        loss = loss_of(self.net, x)
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, x: Tensor, place: int) -> None:
        self.log("val_loss", loss_of(self.net, x))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Two(Module):
    """An optimizer for the layers up and one for those down, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, x: Tensor, place: int) -> None:
        loss = loss_of(self.net, x)
        self.manual_backward(loss)
        for one in self.optimizers():
            one.step()
            one.zero_grad()

    def configure_optimizers(self) -> Any:
        parts = [
            [p for name, p in self.named_parameters() if part in name] for part in ("up", "down")
        ]
        return [torch.optim.SGD(part, lr=0.1) for part in parts]


def loader() -> DataLoader[Tensor]:
    return DataLoader(Batches(), batch_size=None)


def fit(module: Any, out: Path, *callbacks: Any, resume: Path | None = None, **more: Any) -> Any:
    settings = {**QUIET, "max_epochs": 2, "log_every_n_steps": 2, **more}
    trainer = pl.Trainer(callbacks=list(callbacks), default_root_dir=out, **settings)
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer


def watching(out: Path, **settings: Any) -> Any:
    return LightningCallback(out / "run", **{"every": 2, "budget": None, **settings})


@pytest.mark.parametrize("accumulated", [1, 2])
def test_not_a_bit_changes_and_steps_are_those_of_the_trainer(
    tmp_path: Path, accumulated: int
) -> None:
    settings = {"accumulate_grad_batches": accumulated, "gradient_clip_val": 0.5}
    plain, watched, callback = Module(), Module(), watching(tmp_path)
    fit(plain, tmp_path, **settings)
    trainer = fit(watched, tmp_path, callback, **settings)
    assert watched.losses == plain.losses
    for one, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    steps = 16 // accumulated
    assert callback.recorder.step == trainer.global_step == steps
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert trace.steps().tolist() == list(range(0, steps, 2))
    assert trace.layers[0].name == "net.blocks.0.mlp.up"
    assert isinstance(callback, pl.Callback)

    def scalars(name: str) -> dict[int, float]:
        rows = trace.scalars(name).to_pylist()
        return {row["step"]: row["value"] for row in rows}

    wanted = {step: watched.losses[(step + 1) * accumulated - 1] for step in range(1, steps, 2)}
    assert scalars("train_loss") == pytest.approx(wanted)
    assert scalars("loss") == pytest.approx(wanted)
    per_epoch = steps // 2
    assert set(scalars("val_loss")) == {per_epoch - 1, steps - 1}
    means = [sum(watched.losses[:8]) / 8, sum(watched.losses[8:]) / 8]
    assert scalars("epoch_loss") == pytest.approx({per_epoch - 1: means[0], steps - 1: means[1]})


def test_validation_alone_is_not_watched(tmp_path: Path) -> None:
    callback = watching(tmp_path)
    trainer = pl.Trainer(callbacks=[callback], default_root_dir=tmp_path, **QUIET)
    (found,) = trainer.validate(Module(), loader(), verbose=False)
    assert found["val_loss"] > 0
    assert callback.recorder is None
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_resumed_as_a_new_attempt(tmp_path: Path) -> None:
    trainer = fit(Module(), tmp_path, watching(tmp_path), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(Module(), tmp_path, watching(tmp_path), resume=tmp_path / "half.ckpt")
    trace = optgeom.open_trace(tmp_path / "run")
    assert [one.start_step for one in trace.info.attempts] == [0, 8]
    assert trace.steps().tolist() == list(range(0, 16, 2))


def test_two_optimizers_stepped_by_hand(tmp_path: Path) -> None:
    callback = watching(tmp_path)
    trainer = fit(Two(), tmp_path, callback)
    assert trainer.global_step == 32
    assert callback.recorder.step == 16
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.steps().tolist() == list(range(0, 16, 2))
    assert len(trace.layers) == 6


def test_an_exception_fails_the_attempt_and_training_goes_again(tmp_path: Path) -> None:
    callback, module = watching(tmp_path), Module(fails_at=5)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module, tmp_path, callback)
    trace = optgeom.open_trace(tmp_path / "run")
    assert "out of memory" in str(trace.failed)
    fit(module, tmp_path, callback)
    trace.refresh()
    assert trace.closed
    assert trace.failed is None
    assert len(trace.info.attempts) == 2


def test_wrong_use_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(WatchError, match="no setting 'evry'"):
        LightningCallback(tmp_path / "run", evry=2)
    module = Module()
    with pytest.raises(WatchError, match="no such layer"):
        fit(module, tmp_path, watching(tmp_path, layers="no such layer"))
    assert module.losses == []
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_package_of_the_other_name_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = importlib.import_module("pytorch_lightning")
    assert not issubclass(LightningCallback, other.Callback)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")  # the program has not imported it
    made = optgeom.frameworks.LightningCallback
    assert issubclass(made, other.Callback)
    assert pickle.loads(pickle.dumps(made)) is made
