"""A run that is stopped and resumed is the run that was not."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from optgeom.traces.store import open_trace
from optgeom.trainer import ConfigError, train
from optgeom.trainer.progress import Silent


class Signal(Silent):
    """Sends this process a signal in the middle of a run."""

    def __init__(self, at: int, number: int = signal.SIGTERM) -> None:
        self._at, self._number = at, number

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        if step == self._at:
            signal.raise_signal(self._number)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["adamw", "muon", "normuon"])
def test_a_terminated_run_goes_on_with_the_same_bits(tiny, tmp_path: Path, name: str) -> None:
    config = tiny(optimizer__name=name, schedule__steps=8, eval_every=4)
    straight = train(config, out=tmp_path / "straight")
    kept, out = tmp_path / "checkpoints", tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, out=out, checkpoints=kept, listener=Signal(at=3))
    assert names(kept) == ["latest", "step-00000005"]
    resumed = train(config, out=out, checkpoints=kept, resume=True)
    assert resumed.losses == straight.losses[5:]
    assert resumed.eval_loss == straight.eval_loss
    trace, expected = open_trace(str(out)), open_trace(str(tmp_path / "straight"))
    assert trace.steps().tolist() == expected.steps().tolist()
    layer = "blocks.1.mlp.up"
    assert (trace.matrix(7, layer) == expected.matrix(7, layer)).all()


def test_the_latest_and_the_best_are_kept_and_the_others_go(tiny, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    rising = {"optimizer__adamw_lr": 30.0, "schedule__decay": "constant", "schedule__warmup": 0}
    config = tiny(optimizer__name="adamw", schedule__steps=6, checkpoint_every=2, **rising)
    train(config, checkpoints=kept)
    assert json.loads((kept / "latest").read_text()) == {"checkpoint": "step-00000006"}
    best = json.loads((kept / "best").read_text())["checkpoint"]
    assert names(kept) == sorted({"latest", "best", best, "step-00000006"})


def test_a_checkpoint_bears_its_name_once_it_is_written(tiny, tmp_path: Path) -> None:
    kept, seen = tmp_path / "checkpoints", []

    class Watching(Silent):
        """Looks into the folder a while after each step."""

        def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
            time.sleep(0.3)
            seen.append(names(kept) if kept.exists() else [])

    train(tiny(schedule__steps=4, checkpoint_every=2), checkpoints=kept, listener=Watching())
    assert seen[:2] == [[], []]
    # not with the next save, which a run that is killed never makes
    assert seen[2] == ["best", "latest", "step-00000002"]


def test_what_cannot_be_written_is_told(tiny, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"

    class Blocking(Silent):
        """Puts a folder where a pointer is to be written."""

        def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
            (kept / "latest.part").mkdir(parents=True, exist_ok=True)

    with pytest.raises(OSError, match="checkpoint step-00000005 could not be written"):
        train(tiny(), checkpoints=kept, listener=Blocking())


def test_what_a_killed_run_left_unfinished_is_written_anew(tiny, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    (kept / "step-00000005.part").mkdir(parents=True)
    (kept / "step-00000005.part" / "__0_0.distcp").write_bytes(b"half")
    train(tiny(), checkpoints=kept, resume=True)
    assert names(kept) == ["best", "latest", "step-00000005"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"resume": False}, "holds the checkpoints of a run: resume it"),
        ({"resume": True, "model__width": 24}, "with other settings, or damaged"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    tiny, tmp_path: Path, how: dict[str, Any], told: str
) -> None:
    kept = tmp_path / "checkpoints"
    train(tiny(), checkpoints=kept)
    before = names(kept)
    settings = {name: value for name, value in how.items() if name != "resume"}
    with pytest.raises(ConfigError, match=told):
        train(tiny(schedule__steps=9, **settings), checkpoints=kept, resume=how["resume"])
    assert names(kept) == before


def test_resuming_without_a_folder_is_refused(tiny) -> None:
    with pytest.raises(ConfigError, match="needs the folder of the checkpoints"):
        train(tiny(), resume=True)


@pytest.mark.parametrize(
    "form",
    [{"accumulate": 2}, {"recompute": True}, {"precision": "bfloat16"}],
    ids=lambda form: next(iter(form)),
)
def test_portions_and_recomputation_change_rounding_alone(tiny, form: dict[str, Any]) -> None:
    plain, other = train(tiny()), train(tiny(**form))
    close = 2e-2 if "precision" in form else 1e-5
    assert other.losses == pytest.approx(plain.losses, rel=close)
    if "recompute" in form:
        assert other.losses == plain.losses
    if "precision" in form:
        assert other.losses != plain.losses
