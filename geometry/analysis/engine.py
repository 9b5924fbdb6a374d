"""What engines share: what they give, how much is under way, and a worker's function."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache

from optgeom.geometry.analysis.loading import raw_of
from optgeom.geometry.analysis.measuring import Found, measured
from optgeom.geometry.analysis.units import Unit
from optgeom.geometry.blas import one_blas_thread
from optgeom.geometry.threads import use_one_thread
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place, find
from optgeom.traces.store import Trace

KEPT_BYTES = 32 << 20
"""Of row groups that several small matrices share."""


@dataclass(frozen=True, slots=True)
class Done:
    """One unit and what it gave; a unit that was given up has failures and no rows."""

    unit: Unit
    found: Found


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


@dataclass(frozen=True, slots=True)
class Source:
    """A trace, for processes that have only its address.

    Attributes:
        uri: Where it is, as those processes see it.
        created: When its run began: another run in its place is another trace.
    """

    uri: str = field(repr=False)  # it may hold keys
    created: str

    @classmethod
    def of(cls, trace: Trace) -> Source:
        """Of an open trace."""
        return cls(trace.uri, trace.info.created)


def measured_elsewhere(
    source: Source, unit: Unit, stopped: Callable[[], bool] = lambda: False
) -> Found:
    """Measure a unit in another process than the one that asks for it.

    Args:
        source: The trace.
        unit: What to measure.
        stopped: As of `measured`.
    """
    use_one_thread()
    with one_blas_thread():
        trace = _opened(source)
        if not _has(trace, unit):
            trace.refresh()
        return measured(unit, raw_of(trace), stopped=stopped)


def given_up(unit: Unit, why: str) -> Found:
    """What a unit gave that no worker lived to measure."""
    names = sorted({task.layer.name for tasks in unit.captures for task in tasks})
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    first, last = unit.captures[0][0].step, unit.captures[-1][0].step
    return Found(failures=[f"{shown}, steps {first} to {last}, were given up: {why}"])


def reader_of(place: Place) -> Trace:
    """A trace to read raw matrices of: nothing of them is asked for twice, so little is kept."""
    return Trace(place, Cache(KEPT_BYTES))


@lru_cache(maxsize=1)
def _opened(source: Source) -> Trace:
    return reader_of(find(source.uri))


def _has(trace: Trace, unit: Unit) -> bool:
    last = unit.captures[-1][0]
    steps = trace.steps(stage=last.raw[0], table="updates")
    return bool((steps == last.step).any())
