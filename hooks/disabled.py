"""A recorder that does nothing: watching switched off from outside, without touching the code."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch

from optgeom.hooks.describe import Description
from optgeom.hooks.recorder import Recorder

VARIABLE = "OPTGEOM_DISABLED"
"""Set to anything but 0, false, no, off or nothing, it makes `watch` watch nothing."""

_OFF = ("", "0", "false", "no", "off")


def is_disabled() -> bool:
    """Whether the environment says that nothing shall be watched."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _OFF


class Disabled(Recorder):
    """What `watch` returns then: the surface of a recorder, without anything behind it.

    A copy or a pickle of a recorder is one too: two cannot write one trace.
    """

    def __init__(self, start_step: int = 0) -> None:  # on purpose without Recorder's own
        """Begin.

        Args:
            start_step: what `step` says, for good.
        """
        self._step = start_step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Recorder that records nothing>"

    @property
    def step(self) -> int:
        """The first step; steps are not counted."""
        return self._step

    @property
    def failure(self) -> BaseException | None:
        """None: what is not done does not fail."""
        return None

    def describe(self) -> Description:
        """Nothing is captured, so there is nothing to decide."""
        return Description((), 0.0)

    def capture_next(self) -> None:
        """Nothing."""

    def log(self, /, *, step: int | None = None, **scalars: float | torch.Tensor) -> None:
        """Nothing, whatever it is given.

        Args:
            step: is not looked at.
            **scalars: are not looked at.
        """

    def record(self, scalars: Mapping[str, Any], step: int | None = None) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def applying(self) -> AbstractContextManager[None]:
        """Run the block."""
        return nullcontext()

    def flush(self) -> bool:
        """Nothing; True, since nothing is missing of what was captured."""
        return True

    def close(self) -> None:
        """Nothing."""


def _pickled(recorder: Recorder) -> tuple[Any, ...]:
    return Disabled, (recorder.step,)


copyreg.pickle(Recorder, _pickled)
