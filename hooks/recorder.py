"""The recorder: stands around the optimizer's step, and sees that nothing of ours harms the run."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple, replace
from functools import partial
from math import prod
from typing import Any, Self

import torch

from optgeom.geometry.diagnosis.finding import Finding
from optgeom.hooks.aside import Aside, aside, stand_aside
from optgeom.hooks.beside import Beside
from optgeom.hooks.budget import DOUBLED, Budget, Spent
from optgeom.hooks.calls import intercepted
from optgeom.hooks.capture import Capturing
from optgeom.hooks.captured import Capture
from optgeom.hooks.clock import Clocks, Plan, cadences, next_capture, plan
from optgeom.hooks.costs import Costs
from optgeom.hooks.describe import Description, describe
from optgeom.hooks.disk import ROOM_ENDS, Room, raw_bytes
from optgeom.hooks.ending import Ending
from optgeom.hooks.forks import tell_children
from optgeom.hooks.guard import Guard, is_of_a_signal
from optgeom.hooks.layers import Decision, Layer
from optgeom.hooks.mode import worn
from optgeom.hooks.records import Records
from optgeom.hooks.replaced import Replaced
from optgeom.hooks.scalars import Scalars, record_stop
from optgeom.hooks.scaler import skipped
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.shown import Shown
from optgeom.hooks.stepping import Attachment, Begun
from optgeom.hooks.taps import listening
from optgeom.hooks.worker import WAITING_BYTES, Worker
from optgeom.traces.writer import TraceWriter

logger = logging.getLogger(__name__)


class Recorder(Shown):
    """What `optgeom.watch` returns: a handle, and a context manager that closes itself."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Any],
        layers: tuple[Layer, ...],
        decisions: tuple[Decision, ...],
        writer: TraceWriter,
        ranks: Ranks,
        *,
        clocks: Sequence[Clocks],
        groups: Sequence[str | None],
        budget: float | None,
        settings: Mapping[str, Any],
        stages: tuple[str, ...],
        optimizer_names: tuple[str, ...],
        start_step: int,
        strict: bool,
        wait: bool,
        room: Room,
        beside: Beside,
    ) -> None:
        """Attach; use `optgeom.watch`, which checks the arguments."""
        self._optimizers = list(optimizers)
        self._places = {id(optimizer): i for i, optimizer in enumerate(optimizers)}
        self._layers, self._decisions = layers, decisions
        self._writer = writer
        self._ranks = ranks
        self._clocks = tuple(clocks)
        self._groups = tuple(groups)
        entries = [prod(layer.shape) for layer in layers]
        self._weights = [count / sum(entries) for count in entries]
        self._measured = self._stored = 0.0
        self._budget = Budget(budget)
        self._spent = Spent(0.0, 0.0, 0.0, 0.0, 0.0)
        self._settings = dict(settings)
        self._stages, self._strict = stages, strict
        self._room = room
        self._raw_bytes = self._last_raw = 0
        self._warn = logger.warning if ranks.rank == 0 else logger.debug  # all see the same
        self._replaced = Replaced(model, self._optimizers, layers, self._warn)
        self._step = self._last_step = start_step
        self._due = next_capture(self._clocks, start_step)
        self._running: dict[int, float] = {}
        self._stepped: set[int] = set()
        self._plan: Plan | None = None
        self._whole = False
        self._captures: dict[int, Capture] = {}
        self._lock = threading.RLock()
        self._closed = self._raised = self._updates_stopped = False
        self._beside, self._findings = beside, beside.findings
        self._to_tell: tuple[Finding, ...] = ()
        self._guard = Guard(partial(record_stop, writer, weakref.ref(self)))
        self._costs = Costs()
        self._scalars = Scalars(writer, self._costs)
        self._worker = Worker(WAITING_BYTES, self._guard.fail, wait=wait)
        records = Records(writer, optimizer_names, self._guard)
        self._capturing = Capturing(
            layers, records, self._worker, ranks, self._guard, self._costs, stages
        )
        self._ending = Ending(
            writer, self._worker, ranks, self._guard, self._costs, beside, len(layers), budget
        )
        weakref.finalize(self, self._ending.later).atexit = False
        self._attachments = [
            Attachment(optimizer, self) for optimizer in optimizers if hasattr(optimizer, "step")
        ]
        tell_children(self)
        stand_aside()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._raised = self._raised or error is not None  # never in the way of another error
        self._close(error)

    @property
    def step(self) -> int:
        """The step that comes next, counted from 0 or `start_step`."""
        return self._step

    @property
    def failure(self) -> BaseException | None:
        """What stopped the capture, if anything did; training went on."""
        return self._guard.error or self._writer.failure

    def describe(self) -> Description:
        """Every parameter: captured or not, why, as what shape; and the trace's expected size."""
        return describe(self._decisions, self._layers, self._clocks, len(self._stages))

    @aside
    def capture_next(self) -> None:
        """Capture the next step that begins, whole, whatever the clocks say.

        On every rank, or on none. A step that raises, or that a GradScaler skips, is none: the
        one after it is captured.
        """
        self._whole = True

    @aside
    def log(self, /, *, step: int | None = None, **scalars: float | torch.Tensor) -> None:
        """Record scalars beside the geometry, and the seconds since the start; of rank 0 only.

        Args:
            step: they belong to; by default the step that ended last.
            **scalars: numbers, or tensors of one entry, by name.
        """
        self.record(scalars, step)

    def record(self, scalars: Mapping[str, Any], step: int | None = None) -> None:
        """As `log` does, under any names."""
        if not self._closed and not self._ranks.rank:
            with self._guard.harmless():
                self._scalars.log(self._last_step if step is None else step, scalars)

    @aside
    def advance(self) -> None:
        """End the recorder's step by hand, where not every optimizer steps every time.

        Nothing happens where the step has ended by itself, since all of them had stepped.
        """
        with self._lock:
            if self._stepped and not self._closed:
                self._next_step()

    @aside
    def applying(self) -> AbstractContextManager[None]:
        """Stand around whatever applies updates and is no torch.optim.Optimizer.

        It stands for those of the watched optimizers that have no `step`; for the first, if all
        have one. What steps inside by its own `step` is captured there, or here, and once.
        """
        return Aside(self._applying())

    @contextmanager
    def _applying(self) -> Iterator[None]:
        by_hand = [one for one in self._optimizers if not hasattr(one, "step")]
        with ExitStack() as stack:
            for optimizer in by_hand or self._optimizers[:1]:
                stack.enter_context(self._around(optimizer))
            yield

    @aside
    def flush(self) -> bool:
        """Wait until what was captured so far is in files: where a checkpoint is saved, say.

        False: capture has stopped (`strict=True` raises why), or the writer has left records out.
        """
        with self._guard.harmless():
            if not self._closed:
                self._worker.drain()
            kept = self._writer.flush()
        self._raise_if_strict()
        return self.failure is None and kept

    @aside
    def close(self) -> None:
        """Write what is left, detach from the optimizers; any number of times.

        Raises:
            Exception: with `strict=True`, what stopped the capture, if it was not raised before.
        """
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._detach()
        self._beside.following.look(self._step - 1)
        self._ending(error)
        if error is None:
            self._findings.tell(self._findings.last())
        self._raise_if_strict()

    def _detach(self) -> None:
        self._closed = True
        for attachment in self._attachments:
            attachment.detach()

    def forked(self) -> None:
        """In a forked child the optimizers are its own, and step unwatched."""
        self._lock = threading.RLock()  # another thread may have held it at the fork
        self._detach()

    def begin(self, optimizer: Any) -> Begun:
        """An optimizer is about to step."""
        place = self._places[id(optimizer)]
        with self._lock:
            if self._closed or place in self._running or skipped(optimizer):
                return Begun.LEFT_ALONE
            if place in self._stepped:
                self._next_step()
            begins = self._plan is None and not self._stepped
            if begins and (self._whole or (self._due is not None and self._due <= self._step)):
                with self._guard.harmless():
                    self._make_plan()
            if self._plan is None:
                self._running[place] = time.perf_counter()
                return Begun.COUNTED
            return self._begin(optimizer, place, self._plan)

    def passed(self, optimizer: Any, done: bool) -> None:
        """An optimizer's step without a capture is over."""
        now = time.perf_counter()
        with self._lock:
            place = self._places[id(optimizer)]
            begun = self._running.pop(place, now)
            if done:
                self._costs.inside += now - begun
                self._has_stepped(place, now)
        if done and self._strict:
            self._raise_if_strict()

    def run(self, optimizer: Any, step: Callable[[], Any]) -> Any:
        """Run an optimizer's step with the capture around it."""
        with self._captured(optimizer):
            return step()

    def interrupted(self, optimizer: Any) -> None:
        """Ctrl-C may have come among what is ours here: no step of this optimizer runs any more."""
        place = self._places[id(optimizer)]
        self._running.pop(place, None)
        self._captures.pop(place, None)

    def closure_returned(self, optimizer: Any) -> None:
        """A closure has made the gradients anew."""
        capture = self._captures.get(self._places[id(optimizer)])
        if capture is not None and capture.reading is not None:
            with self._guard.harmless():
                capture.reading.note_gradients()

    @contextmanager
    def _around(self, optimizer: Any) -> Iterator[None]:
        done = False
        try:
            begun = self.begin(optimizer)
            if begun is Begun.CAPTURED:
                with self._captured(optimizer):
                    yield
                return
            try:
                yield
                done = True
            finally:
                if begun is Begun.COUNTED:
                    self.passed(optimizer, done)
        except BaseException as error:
            if is_of_a_signal(error):
                self.interrupted(optimizer)
            raise

    def _begin(self, optimizer: Any, place: int, planned: Plan) -> Begun:
        started = time.perf_counter()
        capture: Capture | None = None
        with self._guard.harmless():
            capture = self._capturing.begin(optimizer, place, self._step, planned)
        now = self._running[place] = time.perf_counter()
        self._costs.outside += now - started
        if capture is None:
            return Begun.COUNTED
        self._captures[place] = capture
        return Begun.CAPTURED

    @contextmanager
    def _captured(self, optimizer: Any) -> Iterator[None]:
        place = self._places[id(optimizer)]
        capture, done = self._captures[place], False
        try:
            with ExitStack() as stack:
                if capture.reading is not None:
                    stack.enter_context(listening(capture.reading, optimizer, self._guard.fail))
                    if capture.by_calls:
                        stack.enter_context(intercepted(capture.reading, self._guard.fail))
                    if capture.by_mode:
                        stack.enter_context(worn(capture.reading, self._guard.fail))
                yield
            done = True
        finally:
            ended = time.perf_counter()
            with self._lock:
                begun = self._running.pop(place, ended)
                self._captures.pop(place, None)
                if done:
                    with self._guard.harmless():
                        self._end(capture)
                capture.reading = None  # it refers to itself, so the gradients would live on
                if done or capture.handed_over:  # matrices of a step that raised are on their way
                    now = time.perf_counter()
                    self._costs.inside += ended - begun
                    self._costs.outside += now - ended
                    self._has_stepped(place, now)
        told, self._to_tell = self._to_tell, ()
        self._findings.tell(told)
        self._raise_if_strict()

    def _end(self, capture: Capture) -> None:
        flags = self._capturing.flags(capture)
        spent = astuple(self._costs.spent(self._background))
        told = (self.failure is not None, self._findings.waiting, self._writer.raw_bytes)
        mine = [*map(float, told), *spent, *flags]
        failed, new, raw, *agreed = self._ranks.agree(mine, self._layers[0].parameter.device)
        self._spent, flags = Spent(*agreed[: len(spent)]), agreed[len(spent) :]
        self._raw_bytes = int(raw) * self._ranks.size + self._last_raw  # this capture's are to come
        if failed:
            if self.failure is None:
                self._guard.fail(RuntimeError("capture failed on another rank, see its log"))
            return
        self._capturing.end(capture, flags)
        if new:  # on every rank at the same step, so that all of them may stop
            self._to_tell = self._ranks.share(self._findings.take())

    def _make_plan(self) -> None:
        # where several ranks share the trace, one whose capture has failed still takes part
        alone = self._ranks.size == 1 or not self._ranks.connected
        if alone and self.failure is not None:
            return
        planned = plan(self._clocks, self._step, self._budget.thinning, whole=self._whole)
        self._whole = False
        if (worker := self._worker).offered:  # earlier captures' jobs are done now, or most of them
            part = worker.done * self._measured / worker.offered
            self._costs.spectra.look(worker.seconds, part)
        if planned is not None:
            planned = planned.without(self._replaced.look(self._step))
            self._plan = self._within_room(planned)

    def _within_room(self, planned: Plan) -> Plan:
        """Leave raw matrices out for good before they take more of the disk than they may."""
        more = raw_bytes((self._layers[i] for i in planned.updates), len(self._stages))
        taken = self._writer.raw_bytes if self._ranks.size == 1 else self._raw_bytes
        self._last_raw = more
        if not self._updates_stopped and not self._room.holds(taken, more):
            self._updates_stopped = True
            self._warn(ROOM_ENDS, self._step, self._room.words)
            if self._ranks.rank == 0:
                self._writer.scalar(self._step, "updates_stopped", 1.0)
            self._amend({"updates_stopped": self._step})
        return replace(planned, updates=frozenset()) if self._updates_stopped else planned

    def _has_stepped(self, place: int, now: float) -> None:
        self._last_step = self._step
        self._stepped.add(place)
        if len(self._stepped) == len(self._optimizers):
            self._next_step(now)

    def _next_step(self, now: float | None = None) -> None:
        now = time.perf_counter() if now is None else now
        if self._plan is None:
            self._costs.step_ended(now)
        else:
            with self._guard.harmless():
                self._finish_capture(self._plan, now)
            self._plan = None
        self._stepped.clear()
        self._step += 1
        if self._due is not None and self._due < self._step:
            self._due = next_capture(self._clocks, self._step)

    def _finish_capture(self, planned: Plan, now: float) -> None:
        costs = self._costs
        costs.capture_ended(now, self._part(planned.norms), self._worker.waited)
        self._measured += self._part(planned.spectra)
        self._stored += self._part(planned.updates)
        costs.updates.look(costs.updates_seconds, self._stored)
        left_out = planned.left_out * len(self._stages)
        costs.rows_left_out += left_out
        costs.saved += self.failure is None
        self._writer.end_step(self._step)
        if self._ranks.rank == 0:
            lost = {"budget": left_out, "queue": self._worker.dropped}
            lost["writer"] = self._writer.dropped.total()
            for name, value in costs.scalars(self._background, lost):
                self._writer.scalar(self._step, name, value)
        self._beside.look(self._step)
        self._keep_to_budget()

    @property
    def _background(self) -> float:
        return self._worker.seconds + self._writer.seconds + self._beside.seconds

    def _part(self, layers: Iterable[int]) -> float:
        return sum(self._weights[i] for i in layers)

    def _keep_to_budget(self) -> None:
        clocks = self._budget.decide(self._clocks, self._weights, self._step, self._spent)
        changed = {(a, b) for a, b in zip(self._clocks, clocks, strict=True) if a != b}
        for before, after in changed:
            self._warn(DOUBLED, self._budget.share, after.every, self._step, before.every)
        if changed:
            self._clocks = clocks
            self._due = next_capture(clocks, self._step + 1)
            self._amend(cadences(self._groups, clocks))

    def _amend(self, changes: Mapping[str, Any]) -> None:
        self._settings |= changes
        self._writer.amend(capture=dict(self._settings))

    def _raise_if_strict(self) -> None:
        if self._strict and not self._raised and (failure := self.failure) is not None:
            self._raised = True
            raise failure
