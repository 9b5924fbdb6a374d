"""Numbers of the user's own, beside the geometry."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from optgeom.hooks.costs import Costs
from optgeom.traces.writer import TraceWriter

logger = logging.getLogger(__name__)


class Scalars:
    """Writes them; what is no number is left out and said once per name."""

    def __init__(self, writer: TraceWriter, costs: Costs) -> None:
        """Begin.

        Args:
            writer: of the trace.
            costs: knows when the run began.
        """
        self._writer = writer
        self._costs = costs
        self._step: int | None = None
        self._refused: set[str] = set()

    def log(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record scalars of a step, and with the first of them the seconds since the start.

        Args:
            step: they belong to.
            scalars: numbers, or tensors of one entry, by name.
        """
        if step != self._step:
            self._step = step
            self._writer.scalar(step, "elapsed_seconds", self._costs.elapsed)
        for name, value in scalars.items():
            try:
                number = float(value.item() if isinstance(value, torch.Tensor) else value)
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                if name not in self._refused:
                    self._refused.add(name)
                    kind = type(value).__name__
                    logger.warning("rec.log takes numbers, left out %s=%s: %s", name, kind, error)
                continue
            self._writer.scalar(step, name, number)


def record_stop(writer: TraceWriter, recorder: weakref.ref[Any]) -> None:
    """Leave word in the trace that the capture was stopped, and at which step."""
    found = recorder()
    writer.scalar(0 if found is None else found.step, "capture_stopped", 1.0)
