"""What capture costs, measured while it happens, in seconds."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median

STEPS = 64
"""Steps whose durations are kept."""

CAPTURES = 5
"""Captures whose costs are kept; the first is not, it pays for what is loaded only once."""

LEAST = 3
"""Captures that must have been measured before what they cost is believed."""


def _steps() -> deque[float]:
    return deque(maxlen=STEPS)


def _captures() -> deque[float]:
    return deque(maxlen=CAPTURES)


@dataclass(slots=True)
class Costs:
    """Durations of steps without their capture, and of captures by what they did.

    `capture` is the cost of the recorder's step so far, over all its optimizers.
    """

    started: float = field(default_factory=time.perf_counter)
    between: deque[float] = field(default_factory=_steps)
    inside: deque[float] = field(default_factory=_steps)
    norms: deque[float] = field(default_factory=_captures)
    last_end: float | None = None
    capture: float = 0.0
    measuring: float = 0.0
    total: float = 0.0
    captures: int = 0
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
        self._ended(now, 0.0)

    def captured(self, inside: float, outside: float, now: float) -> None:
        """Note a captured step.

        Args:
            inside: seconds in the optimizer's step while it was read.
            outside: seconds of the training thread before and after it.
            now: the clock at its end.
        """
        reading = max(0.0, inside - median(self.inside)) if self.inside else 0.0
        cost = reading + outside
        self.capture += cost
        self.total += cost
        self.captures += 1
        if self.captures > 1:
            self.norms.append(reading + self.measuring)  # reading is paid on the norms clock
        self.measuring = 0.0
        self._ended(now, cost)

    def _ended(self, now: float, capture: float) -> None:
        if self.last_end is not None:
            self.between.append(max(0.0, now - self.last_end - capture))
        self.last_end = now

    @property
    def elapsed(self) -> float:
        """Seconds since the recorder was attached."""
        return time.perf_counter() - self.started

    @property
    def step_seconds(self) -> float:
        """The median time from one step's end to the next's, capture left out; 0 if unknown."""
        return median(self.between) if self.between else 0.0

    def whole_capture(self, layers: int, background: float) -> tuple[float, float, float]:
        """Seconds that a capture of all layers takes on this rank: norms, spectra, raw matrices.

        Args:
            layers: how many there are.
            background: CPU seconds of the measuring thread so far.
        """
        norms = median(self.norms) if len(self.norms) >= LEAST else 0.0
        spectra = background / self.spectra_layers * layers if self.spectra_layers else 0.0
        updates = (
            self.updates_seconds / self.updates_layers * layers if self.updates_layers else 0.0
        )
        return norms, spectra, updates
