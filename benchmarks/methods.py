"""What can be attached to a job: ours, and what one would write by hand.

A method captures every second step, so that captured and uncaptured steps stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jobs import Job
from torch import Tensor

NEVER = 2 * 10**6
"""A cadence that no benchmark reaches after step 0."""


class Method:
    """Nothing attached; the base of what can be.

    Attributes:
        first: the first captured step after `attach`; every second one follows.
        sessions: whether it may be attached and closed several times in a process.
    """

    first = 0
    sessions = True

    def attach(self, job: Job, folder: Path) -> None:
        """Begin; `folder` does not exist yet."""
        self.job = job

    def backward(self, job: Job) -> None:
        """Called at every step, captured or not: forward and backward on the next batch."""
        job.backward()

    def before_step(self) -> None:
        """Called at captured steps after backward, before the optimizer."""

    def after_step(self) -> None:
        """Called at captured steps after the optimizer; gradients are still there."""

    def close(self) -> None:
        """End."""

    def expected(self, captures: int) -> int | None:
        """How many matrices that many captures should have written; None: not checked."""
        return None

    def written(self) -> int | None:
        """How many matrices were written, after `close`."""
        return None


class Watched(Method):
    """`optgeom.watch` of every matrix at every second step."""

    def __init__(self, *, raw: bool = False, spectra: bool = False) -> None:
        """Choose what is captured beside norms, their CV and the other scalars.

        Args:
            raw: raw matrices.
            spectra: singular values.
        """
        self._raw, self._spectra = raw, spectra

    def attach(self, job: Job, folder: Path) -> None:
        """Watch all matrices, the embedding and the head too."""
        import optgeom  # not at the top: a peer's process needs none of it

        super().attach(job, folder)
        self._folder = folder
        self.recorder = optgeom.watch(
            job.model,
            job.watched,
            folder,
            every=2,
            spectra_every=2 if self._spectra else NEVER,
            updates_every=2 if self._raw else 0,
            budget=None,
            layers=lambda name, parameter: parameter.ndim == 2,
        )

    def close(self) -> None:
        """Close the recorder; a capture that failed measured nothing."""
        self.recorder.close()
        if self.recorder.failure is not None:
            raise RuntimeError("the capture failed") from self.recorder.failure

    def expected(self, captures: int) -> int:
        """Layers times captures; a fused matrix may be several layers."""
        import optgeom

        return captures * len(optgeom.open_trace(self._folder).layers)

    def written(self) -> int:
        """Rows of metrics, or raw matrices or spectra where those are captured."""
        import optgeom

        trace = optgeom.open_trace(self._folder)
        what = "updates" if self._raw else "spectra" if self._spectra else "metrics"
        return sum(len(trace.steps(layer.name, table=what)) for layer in trace.layers)


class ByHand(Method):
    """A copy of the weights before the step, and something done with the difference after it."""

    def __init__(
        self,
        use: Callable[[Tensor], Any],
        *,
        save: Callable[[list[Any], Path], object] | None = None,
    ) -> None:
        """Choose what is done.

        Args:
            use: called with each difference, (m, n).
            save: called with what `use` returned of all matrices, and a file's path without its
                suffix, at each captured step.
        """
        self._use, self._save = use, save
        self._count = 0

    def attach(self, job: Job, folder: Path) -> None:
        """Note the matrices."""
        super().attach(job, folder)
        folder.mkdir(parents=True)
        self._folder = folder
        self._matrices = [parameter.detach() for parameter in job.matrices]

    def before_step(self) -> None:
        """Copy the model."""
        self._before = [matrix.clone() for matrix in self._matrices]

    def after_step(self) -> None:
        """Use the differences."""
        pairs = zip(self._matrices, self._before, strict=True)
        made = [self._use(after - before) for after, before in pairs]
        if self._save is not None:
            self._save(made, self._folder / str(self._count))
            self._count += 1
        self._before = []


def row_norms(update: Tensor) -> tuple[Tensor, float]:
    """Row norms and their coefficient of variation: the least that "norms and CV" means."""
    norms = torch.linalg.vector_norm(update, dim=1)
    return norms, float(norms.std(correction=0) / norms.mean())


def spectrum(update: Tensor) -> Tensor:
    """Singular values, ascending, from the float64 Gram matrix of the short side."""
    wide = update.double()
    gram = wide.mT @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.mT
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0).sqrt()


def by_torch(updates: list[Tensor], path: Path) -> None:
    """One file of torch.save."""
    torch.save(updates, path.with_suffix(".pt"))


def by_safetensors(updates: list[Tensor], path: Path) -> None:
    """One file of safetensors, which is in the environment of the peers."""
    save_file = import_module("safetensors.torch").save_file
    save_file({str(at): one for at, one in enumerate(updates)}, path.with_suffix(".safetensors"))


OURS: dict[str, Callable[[], Method]] = {
    "optgeom: norms and CV": lambda: Watched(),
    "optgeom: norms and spectra": lambda: Watched(spectra=True),
    "optgeom: raw matrices": lambda: Watched(raw=True),
}
BY_HAND: dict[str, Callable[[], Method]] = {
    "by hand: clone, difference, row norms": lambda: ByHand(row_norms),
    "by hand: torch.save of every update": lambda: ByHand(lambda update: update, save=by_torch),
    "by hand: all spectra on the training thread": lambda: ByHand(spectrum),
}
