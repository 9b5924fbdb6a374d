"""A captured step of one optimizer: begun before it runs, turned into records after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from optgeom.hooks.clock import Plan
from optgeom.hooks.costs import Costs
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Layer
from optgeom.hooks.observe import TAPPED, Entry, Observed, held_bytes, observe
from optgeom.hooks.reading import Reading
from optgeom.hooks.records import Polynomial, Records, detached, polynomial_of
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.spectral import SPECTRAL, WITH_VECTORS, names_any
from optgeom.hooks.worker import Worker

logger = logging.getLogger(__name__)

WAYS_OUT = {
    "momentum": "its state has no buffer of a known name, see "
    "optgeom.hooks.register_state_reader(optimizer_class, function)",
    "ns_input": "nobody hands it over, see optgeom.hooks.tap(parameter, 'ns_input', tensor)",
    "orthogonalized": "nobody hands it over, see "
    "optgeom.hooks.tap(parameter, 'orthogonalized', tensor)",
}
"""What to do where an optimizer does not yield a stage."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One optimizer's captured step; without a reading on a rank whose capture has failed.

    `by_mode` says whether the dispatch mode is worn; else everything goes by difference.
    """

    optimizer: Any
    step: int
    plan: Plan
    indices: tuple[int, ...]
    reading: Reading | None
    by_mode: bool = True
    entries: dict[int, Entry] = field(default_factory=dict)

    def mismatches(self) -> list[float]:
        """For each layer, 1 where the samples do not agree with what was read."""
        slots = [] if self.reading is None else self.reading.slots
        return [float(not slot.verified()) for slot in slots] or [0.0] * len(self.indices)


class Capturing:
    """Begins and ends captures; keeps which layers must be read from differences."""

    def __init__(
        self,
        layers: Sequence[Layer],
        records: Records,
        worker: Worker,
        ranks: Ranks,
        guard: Guard,
        costs: Costs,
        stages: tuple[str, ...],
    ) -> None:
        """Begin with every layer read from operations.

        Args:
            layers: that are captured, in the trace's order.
            records: where rows go.
            worker: measures spectra.
            ranks: who takes part.
            guard: is told of failures.
            costs: is told of what measuring took.
            stages: that are recorded.
        """
        self._layers = layers
        self._records = records
        self._worker = worker
        self._ranks = ranks
        self._guard = guard
        self._costs = costs
        self._stages = stages
        self._by_difference: set[int] = set()
        self._by_mode: dict[int, bool] = {}
        self._asked: set[int] = set()
        self._explained: set[int] = set()

    def begin(self, optimizer: Any, which: int, step: int, plan: Plan) -> Capture | None:
        """Start reading an optimizer's step; None if the plan has none of its layers.

        Args:
            optimizer: about to step.
            which: its place among the watched ones.
            step: the recorder's.
            plan: of that step.
        """
        indices = tuple(i for i in sorted(plan.layers) if self._layers[i].optimizer == which)
        if not indices:
            return None
        if self._guard.error is None:
            with self._guard.harmless(), torch.no_grad():
                return self._start(optimizer, step, plan, indices)
        return Capture(optimizer, step, plan, indices, None)

    def _start(self, optimizer: Any, step: int, plan: Plan, indices: tuple[int, ...]) -> Capture:
        wanted = frozenset(self._stages) & frozenset(TAPPED)
        mine = [self._ranks.owner(i) == self._ranks.rank for i in indices]
        if id(optimizer) not in self._by_mode:
            self._by_mode[id(optimizer)] = not names_any(optimizer, SPECTRAL)
        by_mode = self._by_mode[id(optimizer)]
        reading = Reading(
            [self._layers[i].parameter for i in indices],
            by_difference=[not by_mode or i in self._by_difference for i in indices],
            taps=[wanted if own else () for own in mine],
            keep="weight" in self._stages,
        )
        groups, scale = optimizer.param_groups, loss_scale(optimizer)
        entries = {i: Entry.of(groups[self._layers[i].group], scale) for i in indices}
        return Capture(optimizer, step, plan, indices, reading, by_mode, entries)

    @torch.no_grad()
    def end(self, capture: Capture, mismatches: Sequence[float]) -> None:
        """Measure and record a step that every rank has read.

        Args:
            capture: as begun.
            mismatches: `Capture.mismatches`, agreed between the ranks.
        """
        slots = [] if capture.reading is None else capture.reading.slots
        pending: list[Observed] = []
        recorded: set[str] = set()
        if capture.reading is not None and capture.reading.saw_svd:
            self._by_mode[id(capture.optimizer)] = names_any(capture.optimizer, WITH_VECTORS)
        for slot, index, mismatch in zip(slots, capture.indices, mismatches, strict=True):
            if mismatch:
                self._by_difference.add(index)
            self._explain(index, slot.fold.opaque, capture.by_mode)
            seen = observe(
                slot,
                self._layers[index],
                index,
                step=capture.step,
                optimizer=capture.optimizer,
                entry=capture.entries[index],
                stages=self._stages,
                verified=not mismatch,
                ranks=self._ranks,
                guard=self._guard,
            )
            if seen is not None and self._guard.error is None:
                with self._guard.harmless():
                    self._record(seen, capture)
                    recorded.update(seen.stages)
                    if index in capture.plan.spectra:
                        pending.append(detached(seen))
        self._say_what_is_missing(capture, recorded)
        # only now: a busy background thread would slow the training thread's own measuring down
        for kept in pending:
            self._submit(kept, self._polynomial(kept, capture))

    def _explain(self, index: int, opaque: str | None, by_mode: bool) -> None:
        """Once per layer: which operation was not understood, so that a difference was read."""
        if opaque is None or index in self._explained:
            return
        self._explained.add(index)
        reason = opaque if by_mode else "singular values alone, whose bits a dispatch mode changes"
        logger.debug("layer %s is read by difference: %s", self._layers[index].name, reason)

    def _say_what_is_missing(self, capture: Capture, recorded: set[str]) -> None:
        """Once per optimizer: stages that were asked for and that it does not yield."""
        optimizer = capture.optimizer
        if id(optimizer) in self._asked or not recorded:
            return
        self._asked.add(id(optimizer))
        for stage in self._stages:
            if stage in recorded or stage not in WAYS_OUT:
                continue
            logger.warning(
                "stage %s is not recorded for %s: %s",
                stage,
                type(optimizer).__name__,
                WAYS_OUT[stage],
            )

    def _submit(self, kept: Observed, polynomial: Polynomial) -> None:
        self._worker.submit(lambda: self._records.spectra(kept, polynomial), held_bytes(kept))
        self._costs.spectra_layers += 1

    def _polynomial(self, seen: Observed, capture: Capture) -> Polynomial:
        return polynomial_of(capture.optimizer.param_groups[seen.layer.group])

    def _record(self, seen: Observed, capture: Capture) -> None:
        started = time.perf_counter()
        self._records.norms(seen, self._polynomial(seen, capture))
        self._costs.measuring += time.perf_counter() - started
        if seen.index in capture.plan.updates:
            started = time.perf_counter()
            self._records.updates(seen)
            self._costs.updates_seconds += time.perf_counter() - started
            self._costs.updates_layers += 1


def skipped(optimizer: Any) -> bool:
    """Whether a fused optimizer is about to do nothing, since GradScaler found an overflow."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and bool(found.any())


def loss_scale(optimizer: Any) -> float:
    """What GradScaler left the gradients of a fused optimizer multiplied with, else 1."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, torch.Tensor) else 1.0
