"""The recorder: stands around the optimizer's step, and sees that nothing of ours harms the run."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch

from optgeom.hooks.capture import Capture, Capturing, skipped
from optgeom.hooks.clock import Budget, Clocks, Plan, plan
from optgeom.hooks.costs import Costs
from optgeom.hooks.describe import Description, describe
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Decision, Layer
from optgeom.hooks.mode import worn
from optgeom.hooks.records import Records
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.stepping import Attachment
from optgeom.hooks.taps import listening
from optgeom.hooks.worker import Worker
from optgeom.traces.writer import TraceWriter

logger = logging.getLogger(__name__)

WAITING_BYTES = 512 << 20
"""Bytes of matrices that may wait to be measured."""


class Recorder:
    """What `optgeom.watch` returns: a handle, and a context manager that closes itself."""

    def __init__(
        self,
        optimizers: Sequence[Any],
        layers: tuple[Layer, ...],
        decisions: tuple[Decision, ...],
        writer: TraceWriter,
        ranks: Ranks,
        *,
        clocks: Clocks,
        budget: float | None,
        settings: Mapping[str, Any],
        stages: tuple[str, ...],
        optimizer_names: tuple[str, ...],
        start_step: int,
        strict: bool,
    ) -> None:
        """Attach; use `optgeom.watch`, which checks the arguments."""
        self._optimizers = list(optimizers)
        self._places = {id(optimizer): i for i, optimizer in enumerate(optimizers)}
        self._layers = layers
        self._decisions = decisions
        self._writer = writer
        self._ranks = ranks
        self._clocks = clocks
        self._budget = Budget(budget)
        self._settings = dict(settings)
        self._stages = stages
        self._strict = strict
        self._step = start_step
        self._last_step = start_step
        self._logged: int | None = None
        self._refused: set[str] = set()
        self._stepped: set[int] = set()
        self._plan: Plan | None = None
        self._planned = False
        self._whole = False
        self._inside = False
        self._capture: Capture | None = None
        self._closed = False
        self._raised = False
        self._process = os.getpid()
        self._guard = Guard(lambda: self._writer.scalar(self._step, "capture_stopped", 1.0))
        self._costs = Costs()
        self._worker = Worker(WAITING_BYTES, self._guard.fail, wait=budget is None)
        self._capturing = Capturing(
            layers,
            Records(writer, optimizer_names),
            self._worker,
            ranks,
            self._guard,
            self._costs,
            stages,
        )
        self._attachments = [
            Attachment(optimizer, self) for optimizer in optimizers if hasattr(optimizer, "step")
        ]
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._raised = self._raised or error is not None  # never in the way of another error
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self.failure else f"step {self._step}"
        return f"<Recorder of {len(self._layers)} layers, {state}>"

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

    def capture_next(self) -> None:
        """Capture the next step whole, whatever the clocks say; on every rank, or on none."""
        self._whole = True

    def log(self, *, step: int | None = None, **scalars: float | torch.Tensor) -> None:
        """Record scalars beside the geometry, and the seconds since the start; of rank 0 only.

        Args:
            step: they belong to; by default the step that ended last.
            **scalars: numbers, or tensors of one entry, by name.
        """
        if self._closed or self._ranks.rank:
            return
        at = self._last_step if step is None else step
        with self._guard.harmless():
            if at != self._logged:
                self._logged = at
                self._writer.scalar(at, "elapsed_seconds", self._costs.elapsed)
            for name, value in scalars.items():
                self._log(at, name, value)

    def _log(self, step: int, name: str, value: Any) -> None:
        try:
            number = float(value.item() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            if name not in self._refused:
                self._refused.add(name)
                logger.warning(
                    "rec.log takes numbers, left out %s=%s: %s", name, type(value).__name__, error
                )
            return
        self._writer.scalar(step, name, number)

    def advance(self) -> None:
        """End the recorder's step by hand, where not every optimizer steps every time.

        Nothing happens where the step has ended by itself, since all of them had stepped.
        """
        if self._stepped and not self._closed:
            self._next_step()

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Stand around whatever applies updates and is no torch.optim.Optimizer."""
        with self._around(self._optimizers[0]):
            yield

    def run(self, optimizer: Any, step: Callable[[], Any]) -> Any:
        """Run an optimizer's step with the capture around it; called by its wrapped `step`."""
        if self._inside or skipped(optimizer):
            return step()
        with self._around(optimizer):
            return step()

    def closure_returned(self, optimizer: Any) -> None:
        """A closure has made the gradients anew; called by the wrapped `step`."""
        if self._capture is not None and self._capture.reading is not None:
            with self._guard.harmless():
                self._capture.reading.note_gradients()

    def close(self) -> None:
        """Write what is left, detach from the optimizers; any number of times.

        Raises:
            Exception: with `strict=True`, what stopped the capture, if it was not raised before.
        """
        if self._closed or os.getpid() != self._process:  # a forked child owns none of this
            return
        self._closed = True
        atexit.unregister(self.close)
        for attachment in self._attachments:
            attachment.detach()
        with self._guard.harmless():
            self._worker.close()
        with self._guard.harmless():
            self._writer.close()
        with self._guard.harmless():
            self._ranks.close()
        if self._ranks.rank == 0 and self.failure is None:
            logger.info(
                "saved %.1f MB; capture took %.1f s of the training thread, %.1f s in background",
                self._writer.bytes_written / 1e6,
                self._costs.total,
                self._worker.seconds,
            )
        self._raise_if_strict()

    # -- one step ------------------------------------------------------------------------------

    @contextmanager
    def _around(self, optimizer: Any) -> Iterator[None]:
        started = time.perf_counter()
        with self._guard.harmless():
            self._capture = self._begin(optimizer)
        capture, begun = self._capture, time.perf_counter()
        self._inside = True
        try:
            with ExitStack() as stack:
                if capture is not None and capture.reading is not None:
                    stack.enter_context(listening(capture.reading, optimizer, self._guard.fail))
                    if capture.by_mode:
                        stack.enter_context(worn(capture.reading, self._guard.fail))
                yield
        finally:
            self._inside, self._capture = False, None
        ended = time.perf_counter()
        with self._guard.harmless():
            if capture is None:
                self._costs.uncaptured(ended - begun, ended)
            else:
                self._end(capture)
                now = time.perf_counter()
                self._costs.captured(ended - begun, begun - started + now - ended, now)
        self._stepped.add(self._places[id(optimizer)])
        if len(self._stepped) == len(self._optimizers):
            self._next_step()
        self._raise_if_strict()

    def _begin(self, optimizer: Any) -> Capture | None:
        which = self._places[id(optimizer)]
        if which in self._stepped:
            self._next_step()
        self._last_step = self._step
        if not self._planned:
            self._plan = plan(
                self._clocks,
                self._step,
                len(self._layers),
                self._budget.thinning,
                whole=self._whole,
            )
            self._planned, self._whole = True, False
        # where several ranks share the trace, one whose capture has failed still takes part
        alone = self._ranks.size == 1 or not self._ranks.connected
        if self._plan is None or self._closed or (alone and self.failure is not None):
            return None
        return self._capturing.begin(optimizer, which, self._step, self._plan)

    def _end(self, capture: Capture) -> None:
        mismatches = [0.0] * len(capture.indices)
        with self._guard.harmless(), torch.no_grad():
            mismatches = capture.mismatches()
        share = -(-len(self._layers) // self._ranks.size)
        costs = self._costs.whole_capture(share, self._worker.seconds)
        achieved = (self._costs.total + self._worker.seconds) / self._costs.elapsed
        mine = [float(self.failure is not None), achieved, self._costs.step_seconds, *costs]
        failed, achieved, step_seconds, norms, spectra, updates, *mismatches = self._ranks.agree(
            [*mine, *mismatches],
            self._layers[0].parameter.device,
        )
        if failed:
            if self.failure is None:
                self._guard.fail(RuntimeError("capture failed on another rank, see its log"))
            return
        self._capturing.end(capture, mismatches)
        self._keep_to_budget(
            achieved=achieved,
            step_seconds=step_seconds,
            norms=norms,
            spectra=spectra,
            updates=updates,
        )

    def _keep_to_budget(self, **seconds: float) -> None:
        clocks = self._budget.decide(self._clocks, **seconds)
        if clocks != self._clocks:
            logger.warning(
                "norms alone exceed the budget of %.3g of the run: they are captured every %d "
                "steps from step %d on, instead of every %d; a larger budget=, or None, keeps them",
                self._budget.share,
                clocks.every,
                self._step,
                self._clocks.every,
            )
            self._clocks = clocks
            self._settings |= clocks.settings()
            self._writer.amend(capture=dict(self._settings))

    def _next_step(self) -> None:
        if self._plan is not None:
            with self._guard.harmless():
                self._finish_step(self._plan)
        self._plan, self._planned = None, False
        self._stepped.clear()
        self._step += 1

    def _finish_step(self, planned: Plan) -> None:
        self._writer.end_step(self._step)
        if self._ranks.rank:
            return
        for name, value in (
            ("uncaptured_step_seconds", self._costs.step_seconds),
            ("capture_seconds", self._costs.capture),
            ("capture_share", self._costs.total / self._costs.elapsed),
            ("background_seconds", self._worker.seconds),
            ("rows_left_out.budget", float(planned.left_out * len(self._stages))),
            ("rows_left_out.queue", float(self._worker.dropped)),
            ("rows_left_out.writer", float(sum(self._writer.dropped.values()))),
        ):
            self._writer.scalar(self._step, name, value)
        self._costs.capture = 0.0

    def _raise_if_strict(self) -> None:
        if self._strict and not self._raised and (failure := self.failure) is not None:
            self._raised = True
            raise failure
