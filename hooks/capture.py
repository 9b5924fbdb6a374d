"""A captured step of one optimizer: begun before it runs, turned into records after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.companions import Reach
from optgeom.geometry.overlaps import length
from optgeom.hooks.captured import Capture
from optgeom.hooks.clock import Plan
from optgeom.hooks.costs import Costs
from optgeom.hooks.gathering import Gathering
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Layer
from optgeom.hooks.observe import (
    BEFORE,
    PARTS,
    TAPPED,
    Entry,
    Facts,
    Observed,
    held_bytes,
    local_parts,
    pieces,
    present,
)
from optgeom.hooks.reading import IN_FLIGHT, Reading
from optgeom.hooks.records import Polynomial, Records, counted, detached, polynomial_of
from optgeom.hooks.replicas import apart, digests
from optgeom.hooks.scaler import loss_scale
from optgeom.hooks.sharding import Ranks, is_sharded
from optgeom.hooks.slot import Slot
from optgeom.hooks.streams import on_own_stream
from optgeom.hooks.targets import Target, targets_of
from optgeom.hooks.terms import precision
from optgeom.hooks.verify import Outcome, Promise, outcomes
from optgeom.hooks.ways import Ways
from optgeom.hooks.worker import Job, Worker

logger = logging.getLogger(__name__)

WAYS_OUT = {
    "momentum": "its state has no buffer of a known name, see "
    "optgeom.hooks.register_state_reader(optimizer_class, function)",
    "second_moment": "its state has no second moment of a known name",
    "ns_input": "nobody hands it over, see optgeom.hooks.tap(parameter, 'ns_input', tensor)",
    "orthogonalized": "nobody hands it over, see "
    "optgeom.hooks.tap(parameter, 'orthogonalized', tensor)",
}
"""What to do where an optimizer does not yield a stage."""

_HERE = tuple(name for name in PARTS if name != "after")
"""Parts that a rank may lack; its weights are always there."""


class Capturing:
    """Begins and ends captures."""

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
        self._targets = targets_of(layers)
        self._records = records
        self._worker = worker
        self._ranks = ranks
        self._guard = guard
        self._costs = costs
        self._stages = stages
        self._ways = Ways(layers)
        self._gathering = Gathering(layers, records, ranks, guard, stages, self._measure_cut)
        self._asked: set[int] = set()
        self._rooms: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}

    # -- before the step -----------------------------------------------------------------------

    def begin(self, optimizer: Any, which: int, step: int, plan: Plan) -> Capture | None:
        """Start reading an optimizer's step; None if the plan has none of its layers.

        Args:
            optimizer: about to step.
            which: its place among the watched ones.
            step: the recorder's.
            plan: of that step.
        """
        wanted = plan.layers
        targets = tuple(
            target
            for target in self._targets
            if target.optimizer == which and not wanted.isdisjoint(target.layers)
        )
        if not targets:
            return None
        capture = Capture(optimizer, step, plan, targets)
        if self._guard.error is None:
            with self._guard.harmless(), torch.no_grad():
                self._start(capture)
        return capture

    def _start(self, capture: Capture) -> None:
        optimizer = capture.optimizer
        groups, scale = optimizer.param_groups, loss_scale(optimizer)
        capture.entries = {t.index: Entry.of(groups[t.group], scale) for t in capture.targets}
        alone = self._ranks.size == 1
        expected = self._ways.expected(optimizer, capture.targets) if alone else {}
        slots = [
            self._ways.slot(
                t,
                optimizer,
                capture.entries[t.index],
                expected=expected.get(t.index),
                keep=not BEFORE.isdisjoint(self._stages),
            )
            for t in capture.targets
        ]
        for target, slot in zip(capture.targets, slots, strict=True):
            self._weigh(capture, target, slot)
        capture.by_mode = self._ways.by_mode(optimizer, slots, scaled=scale != 1.0)
        capture.by_calls = bool(expected)
        capture.reading = Reading(
            slots,
            watches=capture.by_mode,
            taps=[self._taps(t, optimizer) for t in capture.targets],
            finish=partial(self._finish_early, capture),
        )

    def _weigh(self, capture: Capture, target: Target, slot: Slot) -> None:
        """Norms of weights that are not looked at again: of shards, of the rows that are here."""
        places = [place for place in target.layers if capture.rows_only(place)]
        if is_sharded(target.parameter):
            for place, rows in self._gathering.own_rows(target, slot.weights, places).items():
                capture.weight_norms[place] = length(rows) if len(rows) else 0.0
        elif self._owns(target):
            for place in places:
                capture.weight_norms[place] = length(self._layers[place].matrix(slot.weights))

    def _taps(self, target: Target, optimizer: Any) -> frozenset[str]:
        """The stages that are taken from an optimizer's hand: rows by every rank that has some."""
        sharded = is_sharded(target.parameter)
        if not (sharded or self._owns(target)):
            return frozenset()
        taken = frozenset(self._stages) & frozenset(TAPPED)
        # measured when it is handed over, the weights would not have moved yet
        believed = not sharded and "applied" not in self._stages
        believed = believed and self._ways.takes_updates(optimizer)
        return taken if believed else taken - {"update"}

    # -- while it runs, and after it -----------------------------------------------------------

    def _finish_early(self, capture: Capture, slot: Slot) -> None:
        """Measure a slot that the optimizer is done with, so that what it holds can go."""
        started = time.perf_counter()
        target = self._targets[slot.index]
        if self._ranks.size > 1 and is_sharded(target.parameter):
            names = present(slot, capture.optimizer, self._stages)
            self._gathering.read(capture, target, slot, tuple(names))
        elif self._owns(target):
            self._finish(capture, target, slot)
        else:
            slot.drop()
        if sum(map(held_bytes, capture.pending)) > IN_FLIGHT:
            capture.handed_over = True
            self._count(capture)
            self._submit(capture)
        self._costs.early += time.perf_counter() - started

    def _finish(self, capture: Capture, target: Target, slot: Slot) -> None:
        entry = capture.entries[target.index]
        names = present(slot, capture.optimizer, self._stages)
        if "gradient" not in self._stages and capture.plan.compared.isdisjoint(target.layers):
            names = [name for name in names if name != "gradient"]  # nothing is compared with it
        facts = capture.state_facts(target, slot)
        out = self._room(capture, target, slot)
        parts = local_parts(slot, entry, capture.optimizer, names, out)
        counts = slot.held_back(parts["update"], entry.lr, facts.decay)
        self._measure(capture, target, parts, facts, counts)
        slot.finish(parts["update"])

    def _room(self, capture: Capture, target: Target, slot: Slot) -> Tensor | None:
        """Memory for an update that is only looked at: pages of its own would cost more than it."""
        kept = capture.plan.spectra | capture.plan.updates
        if not kept.isdisjoint(target.layers):
            return None
        weights = slot.weights
        # optimizers of one recorder may step in threads of their own
        place = (weights.device, precision(weights), threading.get_ident())
        known = self._rooms.get(place)
        if known is None or known.numel() < weights.numel():
            known = torch.empty(weights.numel(), device=place[0], dtype=place[1])
            self._rooms[place] = known
        return known

    def _measure(
        self,
        capture: Capture,
        target: Target,
        wholes: Mapping[str, Tensor],
        facts: Facts,
        counts: Tensor | None,
    ) -> None:
        """Norms of whole matrices at once; what is stored or decomposed waits."""
        if counts is not None:
            capture.counts[target.index] = counts
        plan = capture.plan
        wanted = [(place, self._layers[place]) for place in target.layers if place in plan.layers]
        group = capture.optimizer.param_groups[target.group]
        for seen in pieces(wholes, wanted, facts, self._stages, capture.weight_norms):
            capture.measured += self._records.measure(seen, polynomial_of(group))
            if seen.index in plan.spectra or seen.index in plan.updates:
                capture.pending.append(detached(seen))

    def _measure_cut(
        self,
        capture: Capture,
        target: Target,
        wholes: Mapping[str, Tensor],
        facts: Facts,
        counts: Tensor,
    ) -> None:
        """Measure whole what was sent whole: its weights before the step are on no rank."""
        for place in [place for place in target.layers if capture.rows_only(place)]:
            matrix = self._layers[place].matrix
            update, after = matrix(wholes["update"]), matrix(wholes["after"])
            along = Reach.of(update, float(length(update)) ** 2).along_weight_before
            weight = along(after, lr=facts.entry.lr, decay=facts.decay)
            capture.weight_norms[place] = weight.norm
        self._measure(capture, target, wholes, facts, counts)

    def flags(self, capture: Capture) -> list[float]:
        """What this rank lacks and has of every target, for the ranks to agree on by maximum."""
        if self._ranks.size == 1:
            return []  # nobody asks
        told = digests(capture.targets, [], self._ranks.size)
        with self._guard.harmless():
            told = digests(capture.targets, capture.slots, self._ranks.size)
        if capture.reading is None:
            return [float(name == "update") for _ in capture.targets for name in _HERE] + told
        found: list[float] = []
        for slot in capture.slots:
            read = capture.read.get(slot.index)
            names = present(slot, capture.optimizer, self._stages) if read is None else read.names
            found += [float((name in names) != (name == "update")) for name in _HERE]
        return found + told

    @torch.no_grad()
    def end(self, capture: Capture, flags: Sequence[float]) -> None:
        """Measure, verify and record a step that every rank has read.

        Args:
            capture: as begun.
            flags: `Capturing.flags`, agreed between the ranks.
        """
        counts = np.zeros((len(capture.targets), 4))
        cut: list[tuple[Target, Slot | None, tuple[str, ...]]] = []
        for place, target in enumerate(capture.targets):
            slot = capture.slots[place] if capture.reading is not None else None
            if self._ranks.size > 1 and is_sharded(target.parameter):
                mine = flags[place * len(_HERE) : (place + 1) * len(_HERE)]
                cut.append((target, slot, _some_have(mine)))
            elif slot is not None and not slot.finished and self._owns(target):
                with self._guard.harmless():
                    self._finish(capture, target, slot)
        self._gathering.run(capture, cut)
        found: list[Outcome | None] = [None] * len(capture.targets)
        with self._guard.harmless():
            found = self._outcomes(capture)
        for place, outcome in enumerate(found):
            if outcome is not None:
                counts[place] = outcome.counts
        wrong = [float(outcome is not None and not outcome.verified) for outcome in found]
        failed, *wrong = self._ranks.agree(
            [float(self._guard.error is not None), *wrong], self._device
        )
        self._learn(capture, wrong)
        totals = self._ranks.sums(counts, self._device)
        if failed:
            return  # where another rank's capture failed, this one learns it at the next capture
        with self._guard.harmless():
            self._resolve(capture, found, wrong, counts, totals)
            self._records.norms(capture.measured)
            self._tell(capture, flags[len(capture.targets) * len(_HERE) :])
        self._say_what_is_missing(capture)
        # only now: a busy background thread would slow the training thread's own measuring down
        self._submit(capture)

    def _tell(self, capture: Capture, agreed: Sequence[float]) -> None:
        """Scalars of the step: gradients it wrote to, and replicas that are not the same."""
        if self._ranks.rank or capture.reading is None:
            return
        name = self._records.optimizers[self._layers[capture.targets[0].layers[0]].optimizer]
        scalar = partial(self._records.writer.scalar, capture.step)
        scalar(f"gradients_overwritten.{name}", sum(s.overwrote_gradient for s in capture.slots))
        if self._ranks.size == 1:
            return
        compared = list(apart(capture.targets, agreed, self._ranks.size))
        scalar(f"replicas_compared.{name}", len(compared))
        for target, distance in compared:
            if distance:
                scalar(f"replicas_apart.{self._layers[target.layers[0]].parameter_name}", distance)

    @property
    def _device(self) -> torch.device:
        return self._layers[0].parameter.device

    def _owns(self, target: Target) -> bool:
        return self._ranks.owner(target.index) == self._ranks.rank

    def _outcomes(self, capture: Capture) -> list[Outcome | None]:
        """What the samples of every target say that this rank has finished."""
        promises = {
            place: Promise(slot, facts.entry.lr, facts.decay, slot.by_tap and facts.decay != 0.0)
            for place, slot in enumerate(capture.slots)
            if slot.finished and (facts := capture.facts.get(slot.index)) is not None
        }
        found = dict(zip(promises, outcomes(list(promises.values())), strict=True))
        return [found.get(place) for place in range(len(capture.targets))]

    def _resolve(
        self,
        capture: Capture,
        found: Sequence[Outcome | None],
        wrong: Sequence[float],
        counts: np.ndarray[Any, Any],
        totals: np.ndarray[Any, Any],
    ) -> None:
        """Fill in what only the samples say, of targets that this rank records."""
        self._count(capture)
        for place, (target, outcome) in enumerate(zip(capture.targets, found, strict=True)):
            facts = capture.facts.get(target.index)
            if facts is None or outcome is None:
                continue
            if wrong[place]:
                facts.status = "unverified"
            if facts.source == "tap":
                facts.decay = outcome.decay
                facts.decay_form = "decoupled" if outcome.decay else "none"
            sharded = is_sharded(target.parameter)
            if facts.lost_update_fraction is None:
                facts.count(list(totals[place] if sharded else counts[place]))

    def _count(self, capture: Capture) -> None:
        """What rounding held back, of all matrices read so far in one transfer."""
        if not capture.counts:
            return
        counts = list(capture.counts.values())
        lost = torch.stack([one.to(counts[0].device) for one in counts]).tolist()
        for index, one in zip(capture.counts, lost, strict=True):
            capture.facts[index].count(one)
        late = {id(capture.facts[index]) for index in capture.counts}
        capture.measured = [
            counted(one) if id(one.facts) in late else one for one in capture.measured
        ]
        capture.counts.clear()

    def _learn(self, capture: Capture, wrong: Sequence[float]) -> None:
        if capture.reading is None:
            return
        with self._guard.harmless():
            if capture.reading.saw_svd:
                self._ways.saw_svd(capture.optimizer)
            for target, slot, mismatch in zip(capture.targets, capture.slots, wrong, strict=True):
                self._ways.learn(target, capture.optimizer, slot, mismatch=bool(mismatch))
            self._ways.learn_order(capture.targets, capture.slots)
            self._ways.learn_taps(capture.optimizer, capture.slots)
            if self._ranks.size == 1:
                self._ways.learn_calls(
                    capture.optimizer, capture.targets, capture.slots, wrong=any(wrong)
                )

    def _say_what_is_missing(self, capture: Capture) -> None:
        """Once per optimizer: stages that were asked for and that it does not yield."""
        optimizer = capture.optimizer
        recorded = {one.stage for one in capture.measured}
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

    def _submit(self, capture: Capture) -> None:
        """Hand matrices to the writer and to the background thread."""
        started = time.perf_counter()
        with self._guard.harmless():
            stored = capture.plan.updates
            self._records.updates(
                [one for one in capture.pending if one.index in stored and not one.stored]
            )
        self._costs.updates_seconds += time.perf_counter() - started
        for kept in capture.pending:
            if kept.index in capture.plan.spectra:
                group = capture.optimizer.param_groups[kept.layer.group]
                self._worker.submit(self._job(kept, polynomial_of(group)), held_bytes(kept))
        capture.pending.clear()

    def _job(self, kept: Observed, polynomial: Polynomial) -> Job:
        devices = {one.device for one in kept.stages.values()}
        device = next((one for one in devices if one.type == "cuda"), torch.device("cpu"))
        return on_own_stream(device, partial(self._records.spectra, kept, polynomial))


def _some_have(flags: Sequence[float]) -> tuple[str, ...]:
    """What some rank has a part of, and every one of the update, which all have or none records."""
    told = zip(_HERE, flags, strict=True)
    return ("after", *(name for name, flag in told if bool(flag) != (name == "update")))
