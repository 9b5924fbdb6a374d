"""What an engine is: units in, what was found of them out, in any order."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from threadpoolctl import threadpool_limits

from optgeom.geometry.analysis.loading import raw_of
from optgeom.geometry.analysis.measuring import Found, measured
from optgeom.geometry.analysis.units import Unit
from optgeom.geometry.threads import use_one_thread
from optgeom.traces.store import Trace, open_trace


@dataclass(frozen=True, slots=True)
class Done:
    """One unit and what it gave; a unit that was given up has failures and no rows."""

    unit: Unit
    found: Found


class Engine(Protocol):
    """Measures units somewhere."""

    def __call__(self, units: Sequence[Unit]) -> Generator[Done]:
        """Each unit once; closing the iterator stops what still runs."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be under way at once.

    Attributes:
        workers: Units at a time.
        memory: Bytes that they may take together; one alone may take more.
    """

    workers: int
    memory: int

    def admits(self, unit: Unit, running: Collection[Unit]) -> bool:
        """Whether a unit may begin beside those that run."""
        if not running:
            return True
        taken = sum(one.nbytes for one in running)
        return len(running) < self.workers and taken + unit.nbytes <= self.memory

    def threads_of_each(self, units: Sequence[Unit]) -> int:
        """BLAS threads of a unit: one, unless memory lets fewer units run than there are cores."""
        largest = max((unit.nbytes for unit in units), default=1)
        at_once = max(1, min(self.workers, len(units), self.memory // largest))
        return max(1, self.workers // at_once)


def measured_elsewhere(uri: str, unit: Unit) -> Found:
    """Measure a unit in a process that has only the trace's address: a worker's function.

    Args:
        uri: Where the trace is, as seen from this process.
        unit: What to measure.
    """
    use_one_thread()
    with threadpool_limits(1, user_api="blas"):
        trace = _opened(uri)
        if not _has(trace, unit):
            trace.refresh()
        return measured(unit, raw_of(trace))


@lru_cache(maxsize=4)
def _opened(uri: str) -> Trace:
    return open_trace(uri)


def _has(trace: Trace, unit: Unit) -> bool:
    last = unit.captures[-1][0]
    steps = trace.steps(last.layer.name, last.raw[0], "updates")
    return bool(len(steps)) and bool((steps == last.step).any())
