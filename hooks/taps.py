"""One line for optimizers that are not ours: hand a stage over while a step is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from optgeom.hooks.errors import WatchError
from optgeom.hooks.observe import STAGES
from optgeom.hooks.reading import Reading

_listening: list[Reading] = []


def tap(parameter: Tensor, stage: str, tensor: Tensor) -> None:
    """Hand the capture a stage that it cannot see by itself; free when nobody watches.

    Args:
        parameter: whose update is being made.
        stage: "ns_input" (what enters the orthogonalization) or "orthogonalized" (what leaves it,
            before any shape factor), or another stage of a trace.
        tensor: of the parameter's global shape, any float dtype; copied, never kept.

    Raises:
        WatchError: there is no such stage.
    """
    if stage not in STAGES:
        raise WatchError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    for reading in _listening:
        reading.tap(parameter, stage, tensor)


@contextmanager
def listening(reading: Reading, optimizer: Any) -> Iterator[None]:
    """Take what `tap` and an optimizer's own `stage_observer` hand over, until the block ends."""
    _listening.append(reading)
    observed = hasattr(optimizer, "stage_observer")
    before = optimizer.stage_observer if observed else None

    def observe(parameter: Tensor, stage: str, tensor: Tensor) -> None:
        reading.tap(parameter, stage, tensor)
        if before is not None:
            before(parameter, stage, tensor)

    if observed:
        optimizer.stage_observer = observe
    try:
        yield
    finally:
        if observed:
            optimizer.stage_observer = before
        _listening.remove(reading)
