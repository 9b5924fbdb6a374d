"""One rank of the distributed tests, started as by torchrun: ``two_ranks.py FOLDER CASE [HOW]``.

Trains CASE into FOLDER/trace and leaves FOLDER/rankN.json: losses, or that Ctrl-C came.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from optgeom.trainer import load_config, train
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.progress import Silent

CASES: dict[str, dict[str, Any]] = {
    # In bfloat16 the iteration amplifies the last bits of a sum whose order ranks change.
    "normuon": {"optimizer.name": "normuon", "optimizer.settings.ns_dtype": "float32"},
    "muon": {"optimizer.name": "muon", "optimizer.settings.ns_dtype": "float32"},
    "adamw": {"optimizer.name": "adamw", "clip": 0.5},
    "stopped": {"optimizer.name": "adamw", "schedule.steps": 1000},
    "uneven": {"data.batch": 7},
    "kept": {"optimizer.settings.ns_dtype": "float32", "data.batch": 12, "schedule.steps": 8},
}


def config_of(folder: Path, case: str) -> TrainConfig:
    return load_config(
        overrides={
            "model.width": 16,
            "model.heads": 2,
            "model.blocks": 2,
            "model.mlp_width": 33,
            "data.corpus": str(folder / "text.txt"),
            "data.sequence": 32,
            "data.batch": 8,
            "schedule.steps": 6,
            "schedule.warmup": 2,
            "capture.every": 2,
            "capture.updates_every": 4,
            "capture.stages": ("gradient", "momentum", "update"),
            "eval_every": 3,
            "eval_batches": 2,
            "device": "cpu",
            **CASES[case],
        }
    )


class StopAtThree(Silent):
    """Ctrl-C that reaches one rank only."""

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)


def main(folder: Path, case: str, how: str = "") -> None:
    found: dict[str, Any] = {}
    try:
        result = train(
            config_of(folder, case),
            out=folder / {"": "trace", "resume": "stop"}.get(how, how),
            listener=StopAtThree() if "stop" in (case[:4], how) else None,
            checkpoints=folder / "checkpoints" if how in ("stop", "resume") else None,
            resume=how == "resume",
        )
        found = {"losses": result.losses, "eval_loss": result.eval_loss, "world": result.world}
    except KeyboardInterrupt:
        found = {"interrupted": True}
    except ValueError as error:
        found = {"refused": str(error)}
    found["left"] = not dist.is_initialized()
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
