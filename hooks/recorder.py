"""The recorder: stands around the optimizer's step, and sees that nothing of ours harms the run."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from optgeom.hooks.clock import Budget, Clocks, Plan, plan
from optgeom.hooks.costs import Costs
from optgeom.hooks.describe import Description, describe
from optgeom.hooks.layers import Decision, Layer
from optgeom.hooks.mode import worn
from optgeom.hooks.observe import Entry, Observed, held_bytes, observe
from optgeom.hooks.reading import Reading
from optgeom.hooks.records import Records, detached, polynomial_of
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.stepping import Attachment
from optgeom.hooks.taps import listening
from optgeom.hooks.worker import Worker
from optgeom.traces.writer import TraceWriter

logger = logging.getLogger(__name__)

WAITING_BYTES = 512 << 20
"""Bytes of matrices that may wait to be measured."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured step of one optimizer, while it runs."""

    plan: Plan
    indices: tuple[int, ...]
    reading: Reading | None
    entries: dict[int, Entry]


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
        stages: tuple[str, ...],
        optimizer_names: tuple[str, ...],
        start_step: int,
        strict: bool,
    ) -> None:
        """Attach; use `optgeom.watch`, which checks the arguments."""
        self._optimizers = list(optimizers)
        self._layers = layers
        self._decisions = decisions
        self._writer = writer
        self._ranks = ranks
        self._clocks = clocks
        self._budget = Budget(budget)
        self._stages = stages
        self._strict = strict
        self._records = Records(writer, optimizer_names)
        self._worker = Worker(WAITING_BYTES, self._failed, wait=budget is None)
        self._costs = Costs()
        self._step = start_step
        self._last_step = start_step
        self._stepped: set[int] = set()
        self._plan: Plan | None = None
        self._planned = False
        self._whole = False
        self._by_difference: set[int] = set()
        self._error: Exception | None = None
        self._closed = False
        self._nested = False
        self._device = layers[0].parameter.device
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
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "stopped" if self._error else f"step {self._step}"
        return f"<Recorder of {len(self._layers)} layers, {state}>"

    @property
    def step(self) -> int:
        """The step that comes next, counted from 0 or `start_step`."""
        return self._step

    @property
    def failure(self) -> BaseException | None:
        """What stopped the capture, if anything did; training went on."""
        return self._error or self._writer.failure

    def describe(self) -> Description:
        """Every parameter: captured or not, why, as what shape; and the trace's expected size."""
        return describe(self._decisions, self._layers, self._clocks, len(self._stages))

    def capture_next(self) -> None:
        """Capture the next step whole, whatever the clocks say."""
        self._whole = True

    def log(self, *, step: int | None = None, **scalars: float | torch.Tensor) -> None:
        """Record scalars beside the geometry.

        Args:
            step: they belong to; by default the step that ended last.
            **scalars: numbers, or tensors of one entry, by name.
        """
        if self._closed or self._ranks.rank:
            return
        at = self._last_step if step is None else step
        with self._harmless():
            for name, value in scalars.items():
                number = value.item() if isinstance(value, torch.Tensor) else value
                self._writer.scalar(at, name, float(number))

    def advance(self) -> None:
        """End the recorder's step by hand, where several optimizers make one step."""
        if self._plan is not None and not self._closed:
            with self._harmless():
                self._finish_step(self._plan)
        self._plan, self._planned = None, False
        self._stepped.clear()
        self._step += 1

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Stand around whatever applies updates and is no torch.optim.Optimizer."""
        with self._around(self._optimizers[0]):
            yield

    def run(self, optimizer: Any, step: Callable[[], Any]) -> Any:
        """Run an optimizer's step with the capture around it; called by its wrapped `step`."""
        if self._nested:  # super().step() of an instance that is already being read
            return step()
        with self._around(optimizer):
            return step()

    def closure_returned(self, optimizer: Any) -> None:
        """A closure has made the gradients anew; called by the wrapped `step`."""
        if self._capture is not None and self._capture.reading is not None:
            with self._harmless():
                self._capture.reading.note_gradients()

    def close(self) -> None:
        """Write what is left, detach from the optimizers; any number of times."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for attachment in self._attachments:
            attachment.detach()
        with self._harmless():
            self._worker.close()
            self._writer.close()
            self._ranks.close()
        if self._ranks.rank == 0 and self._error is None:
            logger.info(
                "saved %.1f MB; capture took %.1f s of the training thread, %.1f s in background",
                self._writer.bytes_written / 1e6,
                self._costs.total,
                self._worker.seconds,
            )

    # -- one step ------------------------------------------------------------------------------

    _capture: Capture | None = None

    @contextmanager
    def _around(self, optimizer: Any) -> Iterator[None]:
        started = time.perf_counter()
        with self._harmless():
            self._capture = self._begin(optimizer)
        capture, begun = self._capture, time.perf_counter()
        self._nested = True
        try:
            with ExitStack() as stack:
                if capture is not None and capture.reading is not None:
                    stack.enter_context(listening(capture.reading, optimizer))
                    stack.enter_context(worn(capture.reading, self._failed))
                yield
        finally:
            self._nested, self._capture = False, None
        ended = time.perf_counter()
        with self._harmless():
            if capture is None:
                self._costs.uncaptured(ended - begun, ended)
            else:
                self._end(optimizer, capture)
                now = time.perf_counter()
                self._costs.captured(ended - begun, begun - started + now - ended, now)
        self._stepped.add(self._optimizers.index(optimizer))
        self._last_step = self._step
        if len(self._stepped) == len(self._optimizers):
            self.advance()
        if self._strict and self._error is not None:
            raise self._error

    def _begin(self, optimizer: Any) -> Capture | None:
        which = self._optimizers.index(optimizer)
        if which in self._stepped:
            self.advance()
        if not self._planned:
            self._plan = plan(
                self._clocks,
                self._step,
                len(self._layers),
                self._budget.thinning,
                whole=self._whole,
            )
            self._planned, self._whole = True, False
        if self._plan is None or (self._stopped and self._ranks.size == 1):
            return None
        indices = tuple(i for i in sorted(self._plan.layers) if self._layers[i].optimizer == which)
        if not indices:
            return None
        if self._stopped:
            return Capture(self._plan, indices, None, {})
        parameters: list[nn.Parameter] = [self._layers[i].parameter for i in indices]
        groups = optimizer.param_groups
        with torch.no_grad():
            reading = Reading(parameters, by_difference=[i in self._by_difference for i in indices])
        return Capture(
            self._plan,
            indices,
            reading,
            {i: Entry.of(groups[self._layers[i].group]) for i in indices},
        )

    @torch.no_grad()
    def _end(self, optimizer: Any, capture: Capture) -> None:
        slots = [] if capture.reading is None else capture.reading.slots
        wrong = [0.0 if slot.verified() else 1.0 for slot in slots] or [0.0] * len(capture.indices)
        costs = self._costs
        share = -(-len(self._layers) // self._ranks.size)
        whole = costs.whole_capture(share, self._worker.seconds)
        agreed = self._ranks.agree(
            [float(self._stopped), costs.step_seconds, *whole, *wrong], self._device
        )
        if agreed[0]:
            if not self._stopped:
                self._failed(RuntimeError("capture failed on another rank, see its log"))
            return
        self._clocks = self._budget.decide(
            self._clocks,
            step_seconds=agreed[1],
            norms=agreed[2],
            spectra=agreed[3],
            updates=agreed[4],
        )
        costs.norms = 0.0
        for slot, index, mismatch in zip(slots, capture.indices, agreed[5:], strict=True):
            if mismatch:
                self._by_difference.add(index)
            seen = observe(
                slot,
                self._layers[index],
                index,
                step=self._step,
                optimizer=optimizer,
                entry=capture.entries[index],
                stages=self._stages,
                verified=not mismatch,
                ranks=self._ranks,
            )
            if seen is not None:
                self._record(seen, capture.plan, optimizer)

    def _record(self, seen: Observed, planned: Plan, optimizer: Any) -> None:
        polynomial = polynomial_of(optimizer.param_groups[seen.layer.group])
        started = time.perf_counter()
        self._records.norms(seen, polynomial)
        self._costs.norms += time.perf_counter() - started
        if seen.index in planned.spectra:
            kept = detached(seen)
            self._worker.submit(lambda: self._records.spectra(kept, polynomial), held_bytes(kept))
            self._costs.spectra_layers += 1
        if seen.index in planned.updates:
            started = time.perf_counter()
            self._records.updates(seen)
            self._costs.updates_seconds += time.perf_counter() - started
            self._costs.updates_layers += 1

    def _finish_step(self, planned: Plan) -> None:
        self._writer.end_step(self._step)
        if self._ranks.rank:
            return
        thinned = len(self._layers) - len(planned.spectra) if planned.spectra else 0
        for name, value in (
            ("step_seconds", self._costs.step_seconds),
            ("capture_seconds", self._costs.capture),
            ("background_seconds", self._worker.seconds),
            ("rows_left_out.budget", float(thinned * len(self._stages))),
            ("rows_left_out.queue", float(self._worker.dropped)),
            ("rows_left_out.writer", float(sum(self._writer.dropped.values()))),
        ):
            self._writer.scalar(self._step, name, value)

    # -- failing softly ------------------------------------------------------------------------

    @property
    def _stopped(self) -> bool:
        return self._closed or self._error is not None or self._writer.failure is not None

    def _failed(self, error: Exception) -> None:
        """Stop the capture, say why once; the training run goes on."""
        if self._error is None:
            self._error = error
            logger.error(
                "capture stopped at step %d, training goes on: %s: %s",
                self._step,
                type(error).__name__,
                error,
                exc_info=error,
            )
            self._writer.scalar(self._step, "capture_stopped", 1.0)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- the one place where the run is protected
            self._failed(error)
