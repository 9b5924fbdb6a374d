"""One line for optimizers that are not ours: hand a stage over while a step is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from optgeom.hooks.errors import WatchError
from optgeom.hooks.mode import OnError, taken_off
from optgeom.hooks.observe import TAPPED
from optgeom.hooks.reading import Reading

_listening: list[tuple[Reading, OnError]] = []


def tap(parameter: Tensor, stage: str, tensor: Tensor) -> None:
    """Hand the capture a stage that it cannot see by itself; free when nobody watches.

    Args:
        parameter: whose update is being made.
        stage: "ns_input" (what enters the orthogonalization), "orthogonalized" (what leaves it,
            before any shape factor), "momentum" (the buffer after this step's gradient) or
            "update" (before the weights are written: they will move by -lr times it, after a
            decay of lr * weight_decay or none). An optimizer that hands over every update spares
            the capture the dispatch mode, most of its cost.
        tensor: of the parameter's global shape, or on every rank the rows that it has of a sharded
            one; any float dtype; copied, or measured at once, and never kept.

    Raises:
        WatchError: there is no such stage.
    """
    if stage not in TAPPED:
        raise WatchError(f"stage must be one of {', '.join(TAPPED)}, got {stage!r}")
    for reading, on_error in _listening:
        _hand_over(reading, on_error, parameter, stage, tensor)


def _hand_over(
    reading: Reading, on_error: OnError, parameter: Tensor, stage: str, tensor: Tensor
) -> None:
    try:
        if reading.wants(parameter, stage):
            with taken_off(), torch.no_grad():
                reading.tap(parameter, stage, tensor)
    except Exception as error:  # noqa: BLE001 -- this is called from inside the optimizer's step
        on_error(error)


@contextmanager
def listening(reading: Reading, optimizer: Any, on_error: OnError) -> Iterator[None]:
    """Take what `tap` and an optimizer's own `stage_observer` hand over, until the block ends.

    Args:
        reading: that keeps copies of it.
        optimizer: whose `stage_observer`, if it has one, is set meanwhile.
        on_error: called if a copy cannot be made.
    """
    entry = (reading, on_error)
    observed = hasattr(optimizer, "stage_observer")
    before = optimizer.stage_observer if observed else None

    def observe(parameter: Tensor, stage: str, tensor: Tensor) -> None:
        _hand_over(reading, on_error, parameter, stage, tensor)
        if before is not None:
            before(parameter, stage, tensor)

    def deaf() -> None:
        if observed:
            optimizer.stage_observer = before
        if entry in _listening:
            _listening.remove(entry)

    try:
        _listening.append(entry)
        if observed:
            optimizer.stage_observer = observe
        yield
    finally:
        try:
            deaf()
        except BaseException:  # Ctrl-C, or a signal's handler, came in between
            deaf()
            raise
