"""What capture costs, measured while it happens, in seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from optgeom.hooks.budget import Spent

STEPS = 64
"""Steps whose durations are kept."""

CAPTURES = 5
"""Captures whose costs are kept; the first is not, it pays for what is loaded only once."""

LEAST = 3
"""Captures that must have been measured before what they cost is believed."""

ROUNDS = 4
"""Over about how many times all layers the cost of a spectrum is averaged."""


def _steps() -> deque[float]:
    return deque(maxlen=STEPS)


def _captures() -> deque[float]:
    return deque(maxlen=CAPTURES)


def percent(share: float) -> str:
    """A share in per cent, to two digits.

    >>> percent(0.00834), percent(0.5), percent(4.7)
    ('0.83 %', '50 %', '470 %')
    """
    return f"{100 * share:.2g} %" if share < 1.0 else f"{100 * share:.0f} %"


@dataclass(slots=True)
class Whole:
    """Seconds that a capture of all layers takes, from captures of a part; what is older fades."""

    seconds: float = 0.0
    part: float = 0.0
    seen_seconds: float = 0.0
    seen_part: float = 0.0

    def look(self, seconds: float, part: float) -> None:
        """Take in two running totals.

        Args:
            seconds: so far.
            part: how often all layers were measured so far; a part of them counts as that.
        """
        new = part - self.seen_part
        kept = max(0.0, 1.0 - new / ROUNDS)
        self.seconds = kept * self.seconds + seconds - self.seen_seconds
        self.part = kept * self.part + new
        self.seen_seconds, self.seen_part = seconds, part

    @property
    def mean(self) -> float:
        """0 while none is known."""
        return self.seconds / self.part if self.part else 0.0


@dataclass(slots=True)
class Costs:
    """Durations of steps without their capture, and of captures by what they did.

    `inside`, `outside` and `capture` are of the recorder's step so far, over all its optimizers:
    seconds in their own steps, ours before and after those, and once the step has ended what it
    cost in all; `early` is what of ours inside the steps was timed there. `updates_seconds` is a
    running total: of handing raw matrices over.
    """

    started: float = field(default_factory=time.perf_counter)
    between: deque[float] = field(default_factory=_steps)
    uncaptured: deque[float] = field(default_factory=_steps)
    norms: deque[float] = field(default_factory=_captures)
    last_end: float | None = None
    ended: float | None = None
    inside: float = 0.0
    outside: float = 0.0
    early: float = 0.0
    capture: float = 0.0
    total: float = 0.0
    captures: int = 0
    saved: int = 0
    rows_left_out: int = 0
    updates_seconds: float = 0.0
    other_seconds: float = 0.0
    spectra: Whole = field(default_factory=Whole)
    updates: Whole = field(default_factory=Whole)

    def step_ended(self, now: float) -> None:
        """Note that the recorder's step ended without a capture."""
        self.uncaptured.append(self.inside)
        if self.last_end is not None:
            self.between.append(now - self.last_end)
        self.last_end = now
        self.inside = 0.0

    def capture_ended(self, now: float, part: float, waited: float) -> None:
        """Note that a captured step of the recorder ended.

        Args:
            now: the clock.
            part: which part of all layers, by their entries, had its norms captured.
            waited: seconds so far in which a full queue held the run up.
        """
        reading = self.early  # where every step is captured, no more is known
        if self.uncaptured:
            reading = max(reading, self.inside - median(self.uncaptured))
        self.capture = reading + self.outside
        self.total += self.capture
        self.captures += 1
        if self.captures > 1 and part:  # all but raw matrices and waiting is paid on this clock
            other = self.updates_seconds + waited - self.other_seconds
            self.norms.append(max(0.0, self.capture - other) / part)
        self.other_seconds = self.updates_seconds + waited
        if self.last_end is not None:
            self.between.append(max(0.0, now - self.last_end - self.capture))
        self.last_end = now
        self.inside = self.outside = self.early = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the recorder was attached, up to its end."""
        return (time.perf_counter() if self.ended is None else self.ended) - self.started

    @property
    def step_seconds(self) -> float:
        """The median time from one step's end to the next's, capture left out; 0 if unknown."""
        return median(self.between) if self.between else 0.0

    def share(self, background: float) -> float:
        """The capture's share of the run so far.

        Args:
            background: CPU seconds of our threads so far; they count.
        """
        return (self.total + background) / max(self.elapsed, 1e-9)

    def scalars(self, background: float, lost: Mapping[str, int]) -> Iterator[tuple[str, float]]:
        """What the trace keeps of a captured step.

        Args:
            background: CPU seconds of our threads so far.
            lost: how many rows were left out, by reason.
        """
        yield "uncaptured_step_seconds", self.step_seconds
        yield "capture_seconds", self.capture
        yield "capture_share", self.share(background)
        yield "background_seconds", background
        for reason, count in lost.items():
            yield f"rows_left_out.{reason}", float(count)

    def spent(self, background: float) -> Spent:
        """What the run so far and a capture of all layers cost this rank.

        Args:
            background: CPU seconds of our threads so far.
        """
        return Spent(
            achieved=self.share(background),
            step=self.step_seconds,
            norms=median(self.norms) if len(self.norms) >= LEAST else 0.0,
            spectra=self.spectra.mean,
            updates=self.updates.mean,
        )
