"""What capture costs, measured while it happens, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

REMEMBERED = 64
"""Uncaptured steps whose durations are kept."""


def _recent() -> deque[float]:
    return deque(maxlen=REMEMBERED)


@dataclass(slots=True)
class Costs:
    """Durations of uncaptured steps, and of the last captured one by what it did."""

    between: deque[float] = field(default_factory=_recent)
    inside: deque[float] = field(default_factory=_recent)
    last_end: float | None = None
    capture: float = 0.0
    norms: float = 0.0
    total: float = 0.0
    spectra_layers: int = 0
    updates_layers: int = 0
    updates_seconds: float = 0.0

    def uncaptured(self, inside: float, now: float) -> None:
        """Note a step that captured nothing.

        Args:
            inside: seconds in the optimizer's own step.
            now: the clock after it.
        """
        self.inside.append(inside)
        if self.last_end is not None:
            self.between.append(now - self.last_end)
        self.last_end = now

    def captured(self, inside: float, outside: float, now: float) -> None:
        """Note a captured step.

        Args:
            inside: seconds in the optimizer's step while it was read.
            outside: seconds of the training thread before and after it.
            now: the clock at its end.
        """
        reading = max(0.0, inside - median(self.inside)) if self.inside else 0.0
        self.capture = reading + outside
        self.norms += reading  # what reading itself cost is paid on the norms clock
        self.total += self.capture
        self.last_end = now

    @property
    def step_seconds(self) -> float:
        """The median time from one uncaptured step's end to the next's; 0 while unknown."""
        return median(self.between) if self.between else 0.0

    def whole_capture(self, layers: int, background: float) -> tuple[float, float, float]:
        """Seconds that a capture of all layers takes on this rank: norms, spectra, raw matrices.

        Args:
            layers: how many there are.
            background: CPU seconds of the measuring thread so far.
        """
        spectra = background / self.spectra_layers * layers if self.spectra_layers else 0.0
        updates = (
            self.updates_seconds / self.updates_layers * layers if self.updates_layers else 0.0
        )
        return self.norms, spectra, updates
