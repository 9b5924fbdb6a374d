"""What a trace is asked for: steps, names of layers and stages, in the ways that callers say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from optgeom.traces.errors import NotCaptured
from optgeom.traces.reading.keys import Codes
from optgeom.traces.schema import STAGES

Steps = int | Iterable[int] | slice | None
"""One step or several that must be there; a range or a slice takes what lies in it; None: all."""

Names = str | Iterable[str] | None
"""One or several; None: all."""


def in_steps(
    there: Codes, steps: int | Iterable[int] | slice, path: str
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of some rows are of the steps that were asked, (n,).

    Args:
        there: the step of each row, (n,).
        steps: see Steps.
        path: how to call the trace in errors.

    Raises:
        NotCaptured: no row is of a step that must be there.
    """
    if isinstance(steps, slice):
        wanted = np.unique(there)
        low = -np.inf if steps.start is None else steps.start
        high = np.inf if steps.stop is None else steps.stop
        wanted = wanted[(wanted >= low) & (wanted < high)][:: steps.step]
        return np.isin(there, wanted)
    if isinstance(steps, range):
        return np.isin(there, np.arange(steps.start, steps.stop, steps.step))
    one = [steps] if isinstance(steps, (int, np.integer)) else list(steps)
    wanted = np.array(one, np.int64)
    missing = np.setdiff1d(wanted, there)
    if len(missing):
        raise NotCaptured(f"no step {missing[0]} in {path}: {steps_there(np.unique(there))}")
    return np.isin(there, wanted)


def steps_there(steps: Codes) -> str:
    """The captured steps in words, for errors; ascending and once each."""
    if not len(steps):
        return "no step of it was captured"
    if len(steps) <= 6:
        return f"captured are {', '.join(map(str, steps))}"
    return f"captured are {steps[0]}, {steps[1]}, … {steps[-1]} ({len(steps)} steps)"


def names_in(names: str | Iterable[str]) -> list[str]:
    """The names that were asked for."""
    return [names] if isinstance(names, str) else list(names)


def stage_rank(stage: str) -> int:
    """Where a stage stands in the order of the data's way; unknown ones come last."""
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
