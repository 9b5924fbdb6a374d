"""The runs that a page shows: looked up by name, never joined to a path, refreshed on a tick."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optgeom.figures.cells import value_at
from optgeom.figures.formats import whole
from optgeom.figures.identity import is_computed, run_slots
from optgeom.figures.losses import scalar
from optgeom.figures.reading import layer_in
from optgeom.figures.statuses import when
from optgeom.traces.errors import NotATrace
from optgeom.traces.files.address import masked
from optgeom.traces.store import Traces, open_trace, open_traces

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)


class Value(NamedTuple):
    """One number of one run.

    Attributes:
        value: the number, None where there is none; a logged scalar may be NaN or infinite.
        step: the captured step it is of.
        is_bound: True where it is only a lower bound.
        status: what that step's row says of itself; see ``optgeom.figures.statuses``.
    """

    value: float | None
    step: int | None
    is_bound: bool = False
    status: str = "ok"

    def note(self, asked: int | None) -> str:
        """Return what must be said beside the number at a step looked at; empty if nothing.

        >>> Value(None, 5, status="non_finite").note(5), Value(0.4, 390).note(400)
        ('not finite at step 5', 'step 390')
        >>> Value(0.4, 400).note(400), NOTHING.note(400)
        ('', 'not captured')
        """
        if self.step is None:
            return "computed, never trained" if self.status == UNTRAINED else "not captured"
        if self.status != "ok":
            return when(self.status, self.step)
        return "" if asked in (None, self.step) else f"step {whole(self.step)}"


NOTHING = Value(None, None)
UNTRAINED = "untrained"
"""The status of what only training gives, such as a loss, of a computed run."""


class Runs:
    """The traces of one folder (or one trace alone), opened once and followed.

    Args:
        path: a folder of traces, a trace, or an empty folder that runs will be written to.

    Raises:
        OptgeomError: if the path is none of these, or a trace cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.lock = threading.RLock()
        self._looked = -math.inf
        self._folder: Traces | None = None
        self._alone: Trace | None = None
        self._open()

    def _open(self) -> None:
        folder = Path(self.path)
        if "://" not in self.path and folder.is_dir() and not any(folder.iterdir()):
            return
        try:
            self._folder = open_traces(self.path)
        except NotATrace as error:
            # A single run is as good a thing to look at as a folder of them.
            try:
                self._alone = open_trace(self.path)
            except NotATrace:
                raise error from None

    def refresh(self, *, max_age: float = 0.0) -> str:
        """Look for new steps and new runs.

        Args:
            max_age: seconds; a look that is not older is not repeated.

        Returns:
            A token that changes exactly when there is something new to draw.
        """
        with self.lock:
            now = time.monotonic()
            if now - self._looked < max_age:
                return self.token()
            self._looked = now
            if self._folder is not None:
                self._folder.refresh()
            elif self._alone is not None:
                self._alone.refresh()
            else:
                try:
                    self._open()
                except NotATrace as error:
                    logger.debug("no run yet under %s: %s", masked(self.path), error)
            return self.token()

    def token(self) -> str:
        """Return the token of what is known now, without looking for anything new."""
        state = repr([(trace.name, trace.version) for trace in self.all()])
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def all(self) -> tuple[Trace, ...]:
        """Return every run, by name."""
        with self.lock:
            if self._alone is not None:
                return (self._alone,)
            return () if self._folder is None else tuple(self._folder.values())

    def some(self, names: Iterable[str]) -> list[Trace]:
        """Return the runs of these names, in their order; unknown names are left out."""
        known = {trace.name: trace for trace in self.all()}
        return [known[name] for name in names if name in known]

    def slots(self) -> dict[str, int]:
        """Return the colour slot of every run of the folder."""
        return run_slots(self.all())


def cell(trace: Trace, layer: str, metric: str, *, stage: str, step: int | None) -> Value:
    """Return one metric of one layer at a step, or at the nearest earlier capture.

    A captured step without a number is that step's answer: its status says why.

    Args:
        trace: the run.
        layer: the layer's name.
        metric: a column of the catalogue.
        stage: the captured stage.
        step: the step looked at; None for the last.
    """
    if layer_in(trace, layer) is None or stage not in trace.stages:
        return NOTHING
    found = value_at(trace, layer, metric, stage=stage, step=step)
    if found is None:
        return NOTHING
    return Value(found.value, found.step, found.is_bound, found.status)


def loss_at(trace: Trace, step: int | None, *, name: str = "loss") -> Value:
    """Return a logged scalar, finite or not, at a step or the nearest earlier one."""
    steps, values = scalar(trace, name)
    stop = len(steps) if step is None else int(np.searchsorted(steps, step, side="right"))
    if not stop:
        return NOTHING._replace(status=UNTRAINED) if is_computed(trace) else NOTHING
    value = float(values[stop - 1])
    status = "ok" if np.isfinite(value) else "non_finite"
    return Value(value, int(steps[stop - 1]), status=status)
