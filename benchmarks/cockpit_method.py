"""Cockpit (Schneider, Dangel, Hennig 2021, arXiv:2102.06604) as a method that captures a job.

Its two-step quantities, the size of an update among them, copy the weights at a captured step and
take the difference at the next one: part of its cost stands in the uncaptured steps.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jobs import Job
from methods import Method
from torch import nn
from torch.nn import functional as F

SIZES = ("GradNorm", "UpdateSize", "Distance", "Loss")
"""What needs no gradient of single examples."""


class Cockpit(Method):
    """Its quantities of every matrix, at every second step."""

    sessions = False  # BackPACK's hooks stay on the modules

    def __init__(self, what: Literal["sizes", "economy"]) -> None:
        """Choose the quantities.

        Args:
            what: those of `SIZES`, or Cockpit's own configuration "economy", for which BackPACK
                takes the gradients of single examples of linear layers and embeddings; it knows no
                RMSNorm.
        """
        self._what = what

    def attach(self, job: Job, folder: Path) -> None:
        """Make the instruments."""
        super().attach(job, folder)
        cockpit: Any = import_module("cockpit")

        def schedule(step: int) -> bool:
            return step % 2 == 0

        if self._what == "economy":
            extend: Any = import_module("backpack").extend
            for module in job.model.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    extend(module)
            configuration = import_module("cockpit.utils.configuration").configuration
            quantities = configuration("economy", track_schedule=schedule)
        else:
            known = import_module("cockpit.quantities")
            quantities = [getattr(known, name)(track_schedule=schedule) for name in SIZES]
        self._cockpit: Any = cockpit.Cockpit(job.matrices, quantities=quantities)
        self._step = 0

    def backward(self, job: Job) -> None:
        """Forward, and backward within its context, as its examples do."""
        logits, following = job.forward()
        losses = F.cross_entropy(logits.transpose(1, 2), following, reduction="none").mean(1)
        loss: Any = losses.mean()
        known = {
            "batch_size": len(losses),
            "individual_losses": losses,
            "loss": loss,
            "optimizer": job.optimizers[0],
        }
        with self._cockpit(self._step, info=known):
            loss.backward(create_graph=self._cockpit.create_graph(self._step))
        self._step += 1

    def close(self) -> None:
        """Nothing is written: its `write` may refuse a NaN (docs/benchmarks.md)."""
        if not self._cockpit.get_output():
            raise RuntimeError("Cockpit tracked nothing")
