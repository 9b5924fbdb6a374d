"""Three runs that differ in one thing, the optimizer, and leave three traces to compare.

Same model, seed, data order and schedule. Muon and NorMuon also share the learning rate, at which
both move a hidden matrix by about the same RMS, the momentum and its form: what is left between
them is NorMuon's normalization of the neurons.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optgeom.traces.errors import NotATrace, TraceExists
from optgeom.traces.store import open_trace
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.progress import Listener
from optgeom.trainer.settings import load_config
from optgeom.trainer.train import TrainResult, train

LABELS = {"demo": True}
"""What run.json's config says of a trace that the demo has made, and may replace."""

# Nesterov is Muon's default and not the paper's NorMuon's: the same form for both. bfloat16 saves
# nothing on a CPU, and its rounding would add to what the two are compared by.
_MATRICES = {"optimizer.settings.nesterov": False, "optimizer.settings.ns_dtype": "float32"}
_STAGES = ("gradient", "momentum", "ns_input", "update")
RUNS: Mapping[str, Mapping[str, Any]] = {
    # The lowest held-out loss of 0.001, 0.003, 0.006 and 0.01 within its noise: docs/trainer.md.
    "adamw": {"optimizer.name": "adamw", "optimizer.adamw_lr": 0.003},
    "muon": {"optimizer.name": "muon", "capture.stages": _STAGES, **_MATRICES},
    "normuon": {"optimizer.name": "normuon", "capture.stages": _STAGES, **_MATRICES},
}
"""From the name of a run, which is its folder's, to what it overrides in the preset ``demo``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What the demo has left.

    Attributes:
        root: The folder of the three traces.
        runs: From run name to how it ended, in the order of ``RUNS``.
    """

    root: Path
    runs: Mapping[str, TrainResult]


def demo_config(run: str, *, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The settings of one of the demo's runs.

    Args:
        run: A name in ``RUNS``.
        overrides: As in ``load_config``; they hold for whichever run is asked for.
    """
    return load_config("demo", overrides={**RUNS[run], **(overrides or {})})


def demo(
    root: str | Path,
    *,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
) -> DemoResult:
    """Train with AdamW, Muon and NorMuon, and write a trace of each.

    Everything that can be refused is refused before the first run starts.

    Args:
        root: Folder that will hold the folders adamw, muon and normuon.
        overwrite: Delete traces that an earlier demo has left there; never anything else.
        overrides: Settings for all three runs, such as ``{"schedule.steps": 50}``.
        listener: Told of every step.

    Returns:
        The results by run.

    Raises:
        TraceExists: A folder is taken, and may not be replaced.
        ConfigError: A setting that cannot work, or a start under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"the demo runs in one process, got WORLD_SIZE {os.environ['WORLD_SIZE']}: "
            "'optgeom train' runs under torchrun"
        )
    root = Path(root)
    configs = {run: demo_config(run, overrides=overrides) for run in RUNS}
    _clear([root / run for run in RUNS], overwrite=overwrite)
    results = {
        run: train(config, out=root / run, labels=LABELS, listener=listener)
        for run, config in configs.items()
    }
    return DemoResult(root=root, runs=results)


def _clear(folders: list[Path], *, overwrite: bool) -> None:
    taken = [f for f in folders if f.exists() and not (f.is_dir() and not any(f.iterdir()))]
    for folder in taken:
        if not _is_demo(folder):
            raise TraceExists(
                f"{str(folder)!r} is taken by something that the demo has not made: "
                "choose another folder"
            )
        if not overwrite:
            raise TraceExists(
                f"{str(folder)!r} already holds a trace of the demo: choose another folder, "
                "or overwrite it (overwrite=True, --overwrite)"
            )
    for folder in taken:
        shutil.rmtree(folder)


def _is_demo(folder: Path) -> bool:
    try:
        return open_trace(str(folder)).info.config.get("demo") is True
    except NotATrace:
        return False
