"""One training run of the study, and what is kept of it: a file that says it is done.

Whatever was done with the same settings and code is not done again, so the study goes on where it
was stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.arms import ARMS
from optgeom.traces.store import open_trace
from optgeom.trainer import TrainConfig, train

ROOT = Path(__file__).resolve().parents[2]


@cache
def code() -> str:
    """A digest of torch's version and of the files that the rules and the training are made of.

    Without arms.py: what a rule sets is compared beside it, and labels decide nothing. A rule that
    is given another class there wants another name.
    """
    digest = blake2b(torch.__version__.encode(), digest_size=8)
    files = [*(ROOT / "optim").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]
    for path in sorted(files):
        if "planning" not in path.parts:  # it foretells runs, and takes no part in them
            digest.update(path.read_bytes())
    digest.update(Path(__file__).with_name("variants.py").read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What decides a run's numbers.

    Attributes:
        arm: A name in ``ARMS``.
        lr: Of the hidden matrices; of everything under AdamW.
        adamw_lr: Of everything else.
        seed: Of the weights and the data.
        watched: Whether a trace of it is kept.
    """

    arm: str
    lr: float
    adamw_lr: float
    seed: int
    watched: bool

    @property
    def name(self) -> str:
        """Of its file and its folder."""
        return f"{self.arm}-{self.seed}" if self.watched else f"{self.arm}-lr{self.lr:.4g}"

    @property
    def config(self) -> TrainConfig:
        """The settings of its run."""
        return ARMS[self.arm].config(lr=self.lr, adamw_lr=self.adamw_lr, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        trial: What was run.
        loss: On held-out text after the last step, nats per byte; not finite where it diverged.
        curve: Steps done and loss on held-out text, of watched runs.
        seconds: Of its worker.
        date: When it ended, UTC, to the minute.
    """

    trial: Trial
    loss: float
    curve: tuple[tuple[int, float], ...]
    seconds: float
    date: str


def run(trial: Trial, folder: Path) -> Outcome:
    """Train, or read what was trained already.

    Args:
        trial: What to run.
        folder: Of the study: ``trials/NAME.json`` and, where watched, ``traces/NAME``.
    """
    kept = folder / "trials" / f"{trial.name}.json"
    if (done := read(trial, folder)) is not None:
        return done
    trace = folder / "traces" / trial.name
    shutil.rmtree(trace, ignore_errors=True)  # of a run that was stopped
    began = time.perf_counter()
    result = train(
        trial.config,
        out=trace if trial.watched else None,
        run=trial.name,
        labels={"study": trial.arm},
        make_optimizer=ARMS[trial.arm].make,
    )
    outcome = Outcome(
        trial=trial,
        loss=result.eval_loss,
        curve=_curve(trace) if trial.watched else (),
        seconds=time.perf_counter() - began,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".part{os.getpid()}")
    part.write_text(json.dumps(_saved(outcome)))
    part.replace(kept)
    return outcome


def read(trial: Trial, folder: Path) -> Outcome | None:
    """What a run left; None where there is none with these settings and this code."""
    try:
        saved = json.loads((folder / "trials" / f"{trial.name}.json").read_text())
    except FileNotFoundError:
        return None
    settings = json.loads(json.dumps(trial.config.to_dict()))
    if saved["config"] != settings or saved.get("code") != code():
        return None
    curve = tuple((int(step), float(loss)) for step, loss in saved["curve"])
    plain = {name: saved[name] for name in _PLAIN}
    return Outcome(trial=trial, curve=curve, **plain)


_PLAIN = ("loss", "seconds", "date")


def _saved(outcome: Outcome) -> dict[str, Any]:
    return {
        "config": outcome.trial.config.to_dict(),
        "code": code(),
        "curve": outcome.curve,
        **{name: getattr(outcome, name) for name in _PLAIN},
    }


def _curve(trace: Path) -> tuple[tuple[int, float], ...]:
    table = open_trace(trace).scalars("eval_loss")
    pairs = zip(table.column("step").to_pylist(), table.column("value").to_pylist(), strict=True)
    return tuple((step + 1, loss) for step, loss in sorted(pairs))
