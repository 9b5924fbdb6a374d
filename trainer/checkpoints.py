"""Checkpoints of a run: weights, optimizer and place, in a form that any number of ranks can read.

torch.distributed.checkpoint writes them, sharded, in the background. A checkpoint is written under
another name and renamed when all ranks have written, so that what bears its name is whole.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.optim import Optimizer

from optgeom.trainer.errors import ConfigError
from optgeom.trainer.parallelize import Ranks

logger = logging.getLogger(__name__)

KEPT = ("latest", "best")
"""The files that name a checkpoint; those that none of them names are deleted."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    ``latest`` and ``best`` are small JSON files that name ``step-00000400``, a folder.

    Attributes:
        step: The next step to make.
        best: Lowest loss on held-out text that a checkpoint had, nats per token.
    """

    keeps = True

    def __init__(
        self, folder: str | Path, ranks: Ranks, model: nn.Module, optimizer: Optimizer
    ) -> None:
        """Take a folder; nothing is written yet.

        Args:
            folder: Shared by all ranks.
            ranks: Who takes part; they have a process group, be it of one.
            model: Spread over them.
            optimizer: Its own.
        """
        self.step, self.best = 0, math.inf
        self._folder = Path(folder)
        self._ranks = ranks
        self._trained = model, optimizer
        self._under_way: Future[None] | None = None
        # of its own: it talks while training does
        self._group = dist.new_group(backend="gloo")

    def save(self, step: int, eval_loss: float | None = None) -> None:
        """Begin to save; the state is copied before this returns. Waits for the one before.

        Collective.

        Args:
            step: The next one to make.
            eval_loss: On held-out text, with these weights.

        Raises:
            OSError: The one before could not be written.
        """
        self.wait()
        is_best = eval_loss is not None and eval_loss < self.best
        if eval_loss is not None:
            self.best = min(self.best, eval_loss)
        self.step = step
        name = f"step-{step:08d}"
        temporary = self._folder / f"{name}.part"
        if self._ranks.rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed while it wrote
        self._meet()
        writing = async_save(self._state(), checkpoint_id=temporary, process_group=self._group)
        assert isinstance(writing, Future)
        self._under_way = Future()
        writing.add_done_callback(partial(self._written, self._under_way, name, is_best))

    def wait(self) -> None:
        """Return when everything is on disk and bears its name.

        Talks to no other rank: one of them may have failed.

        Raises:
            OSError: It could not be written.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _written(self, done: Future[None], name: str, is_best: bool, writing: Future[Any]) -> None:
        """In the background, when all ranks have written: give the checkpoint its name."""
        try:
            writing.result()
            if self._ranks.rank == 0:
                part, place = self._folder / f"{name}.part", self._folder / name
                if place.exists():  # whole, and of the same step
                    shutil.rmtree(part)
                else:
                    os.replace(part, place)
                # the best first: a crash in between must not leave its loss without it
                for pointer in reversed(KEPT) if is_best else KEPT[:1]:
                    self._point(pointer, name)
                self._sweep()
        except Exception as error:  # noqa: BLE001 -- handed to whoever waits
            failure = OSError(f"checkpoint {name} could not be written: {error}")
            failure.__cause__ = error
            done.set_exception(failure)
        else:
            done.set_result(None)

    def load(self, name: str = "latest") -> None:
        """Put model, optimizer, `step` and `best` back, on this number of ranks.

        Args:
            name: "latest", "best", or a checkpoint's own.

        Raises:
            ConfigError: There is no such checkpoint, or it is of another model.
        """
        place, state = self._folder / self.named(name), self._state()
        try:
            load(state, checkpoint_id=place, process_group=self._group)
            set_state_dict(
                *self._trained,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )
        except (RuntimeError, ValueError, KeyError, CheckpointException) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            raise ConfigError(
                f"{str(place)!r} is of a run with other settings, or damaged ({reason}): "
                "resume with the settings of that run"
            ) from error
        self.step, self.best = int(state["step"]), float(state["best"])

    @property
    def exist(self) -> bool:
        """Whether there is one to go on from."""
        return (self._folder / KEPT[0]).is_file()

    def named(self, name: str) -> str:
        """The folder that a pointer names; a folder's own name stands for itself.

        Raises:
            ConfigError: There is no such checkpoint.
        """
        pointer = self._folder / name
        try:
            found = json.loads(pointer.read_text())["checkpoint"] if pointer.is_file() else name
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{str(pointer)!r} names no checkpoint: delete it") from error
        if not (self._folder / found / ".metadata").is_file():
            there = sorted(p.name for p in self._folder.glob("step-*") if not p.suffix)
            raise ConfigError(
                f"no checkpoint {name!r} in {str(self._folder)!r}: "
                + (f"there are {', '.join(there)}" if there else "start without resuming")
            )
        return str(found)

    def close(self) -> None:
        """Wait, and give the process group back.

        Raises:
            OSError: The last one could not be written.
        """
        try:
            self.wait()
        finally:
            dist.destroy_process_group(self._group)

    def _state(self) -> dict[str, Any]:
        # the place as tensors: batches follow from seed and step, and training draws nothing
        weights, moments = get_state_dict(*self._trained)
        best = torch.tensor(self.best, dtype=torch.float64)
        return {
            "model": weights,
            "optimizer": moments,
            "step": torch.tensor(self.step),
            "best": best,
        }

    def _meet(self) -> None:
        dist.barrier(group=self._group)

    def _point(self, pointer: str, name: str) -> None:
        temporary = self._folder / f"{pointer}.part"
        temporary.write_text(json.dumps({"checkpoint": name}))
        os.replace(temporary, self._folder / pointer)

    def _sweep(self) -> None:
        named = {self.named(pointer) for pointer in KEPT if (self._folder / pointer).is_file()}
        for place in self._folder.glob("step-*"):
            if place.name not in named and not place.suffix:  # or still being written
                shutil.rmtree(place, ignore_errors=True)


class NoCheckpoints:
    """A run that keeps none."""

    keeps, step = False, 0

    def save(self, step: int, eval_loss: float | None = None) -> None:
        """Nothing."""


@contextmanager
def kept_checkpoints(
    folder: str | Path | None,
    ranks: Ranks,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    resume: bool,
) -> Iterator[Checkpoints | NoCheckpoints]:
    """The checkpoints of a run, closed with it.

    Args:
        folder: None keeps none.
        ranks: Who takes part.
        model: Spread over them.
        optimizer: Its own.
        resume: Go on from the latest one, if there is one.

    Yields:
        Them; ``step`` is the first one to make.

    Raises:
        ConfigError: The folder holds another run's, or resuming without one.
    """
    if folder is None:
        if resume:
            raise ConfigError("resuming needs the folder of the checkpoints, got none: name it")
        yield NoCheckpoints()
        return
    saved = Checkpoints(folder, ranks, model, optimizer)
    try:
        if saved.exist and not resume:
            raise ConfigError(
                f"{str(folder)!r} holds the checkpoints of a run: resume it (resume=True, "
                "--resume), or choose another folder"
            )
        if saved.exist:
            saved.load()
        elif resume:
            logger.warning("no checkpoint in %s yet: the run starts from step 0", folder)
        yield saved
    finally:
        saved.close()
