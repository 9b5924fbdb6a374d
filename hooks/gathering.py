"""The end of a captured step of matrices that are cut into rows over several ranks.

Every rank reads the rows that it has. A few numbers of every matrix go to the rank that owns its
row of the trace, and the matrices that are decomposed; raw matrices are written where their rows
are. No rank sees more whole matrices than it owns, and few at a time. Every rank talks as often as
the others and about as much, whatever has failed on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from optgeom.geometry.context import Context
from optgeom.geometry.floor import floor_of_rounding
from optgeom.geometry.measure import WITHOUT_SPECTRUM
from optgeom.geometry.shards import joined, read_shard, shard_size
from optgeom.hooks.captured import Capture, ReadRows
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Layer
from optgeom.hooks.observe import Facts, Observed, local_parts
from optgeom.hooks.parts import WHOLE, Part, Task, rows_of
from optgeom.hooks.records import LIVE, Block, Measured, Records, context_of, polynomial_of
from optgeom.hooks.sharding import Ranks, is_sharded, local
from optgeom.hooks.slot import Slot
from optgeom.hooks.state import second_moment_of
from optgeom.hooks.targets import Target
from optgeom.hooks.terms import precision

ROUND_BYTES = 16 << 20
"""Bytes of whole matrices that a rank is sent at once, if one alone is not larger."""

COUNTS = 4
"""How many numbers say what rounding held back of a parameter."""

MeasureWhole = Callable[[Capture, Target, Mapping[str, Tensor], Facts, Tensor], None]


class Gathering:
    """Reads and sends the rows of a captured step."""

    def __init__(
        self,
        layers: Sequence[Layer],
        records: Records,
        ranks: Ranks,
        guard: Guard,
        stages: tuple[str, ...],
        measure_whole: MeasureWhole,
    ) -> None:
        """Begin.

        Args:
            layers: that are captured, in the trace's order.
            records: where rows go.
            ranks: who takes part.
            guard: is told of failures.
            stages: that are recorded.
            measure_whole: takes whole parameters whose layers are no rows of theirs.
        """
        self._layers = layers
        self._records = records
        self._ranks = ranks
        self._guard = guard
        self._stages = stages
        self._measure_whole = measure_whole

    def run(
        self, capture: Capture, cut: Sequence[tuple[Target, Slot | None, tuple[str, ...]]]
    ) -> None:
        """Read and record sharded targets; collective.

        Args:
            capture: of the step.
            cut: each target, its slot on this rank, and what some rank has a part of.
        """
        tasks = [self._task(capture, *one) for one in cut]
        for some in self._rounds(tasks):
            self._round(capture, some)

    def own_rows(self, target: Target, tensor: Tensor, places: Sequence[int]) -> dict[int, Tensor]:
        """What this rank has of layers, (r, n) each; of none whose rows lie apart.

        Args:
            target: whose layers.
            tensor: this rank's part of something of its shape.
            places: of the layers.
        """
        found = {}
        for place in places:
            layer = self._layers[place]
            if (rows := rows_of(layer)) is not None:
                part = Part("weight", layer.shape, rows, place)
                task = Task(target, None, (), self._held(target, layer.shape[1]), 0, (), (), ())
                found[place] = task.rows(part, self._ranks.rank, {"weight": tensor})
        return found

    # -- what is to be done, the same on every rank --------------------------------------------

    def _task(
        self, capture: Capture, target: Target, slot: Slot | None, names: tuple[str, ...]
    ) -> Task:
        plan, shape = capture.plan, tuple(target.parameter.shape)
        wanted = [i for i in target.layers if i in plan.layers]
        runs = {i: rows_of(self._layers[i]) for i in wanted}
        norms: list[Part] = []
        sent: list[Part] = []
        raw: list[Part] = []
        cols = math.prod(shape[1:])
        if any(run is None for run in runs.values()):
            parts = [self._part(capture, target, name, shape, range(shape[0])) for name in names]
            sent = [part for part in parts if part is not None]
        else:
            cols = self._layers[wanted[0]].shape[1]
            for i in wanted:
                for stage in [s for s in self._stages if s in names]:
                    layer = self._layers[i]
                    part = self._part(capture, target, stage, layer.shape, runs[i], i)
                    if part is None:
                        continue
                    norms.append(part)
                    if i in plan.spectra and stage not in WITHOUT_SPECTRUM:
                        sent.append(part)
                    if i in plan.updates:
                        raw.append(part)
        held, owner = self._held(target, cols), self._ranks.owner(target.index)
        return Task(target, slot, names, held, owner, tuple(norms), tuple(sent), tuple(raw))

    def _held(self, target: Target, cols: int) -> tuple[range, ...]:
        """Which rows of that length every rank has."""
        times = math.prod(target.parameter.shape[1:]) // cols
        rows = self._ranks.rows(target.index)
        ends = [sum(rows[:rank]) * times for rank in range(len(rows) + 1)]
        return tuple(range(*pair) for pair in pairwise(ends))

    def _part(
        self,
        capture: Capture,
        target: Target,
        name: str,
        shape: tuple[int, ...],
        rows: range | None,
        index: int = WHOLE,
    ) -> Part | None:
        if name != "second_moment":
            return Part(name, shape, rows, index)
        second = second_moment_of(capture.optimizer, target.parameter)
        if second is None or second.shape == target.parameter.shape:
            return Part(name, shape, rows, index)
        # one number per neuron, of a whole parameter
        if index != WHOLE and (
            self._layers[index].split is not None or second.numel() != self._layers[index].shape[0]
        ):
            return None
        per_neuron = (second.numel(), 1) if index != WHOLE else tuple(second.shape)
        return Part(name, per_neuron, rows if is_sharded(second) else None, index)

    def _rounds(self, tasks: Sequence[Task]) -> Iterator[list[Task]]:
        """Tasks that are talked about at once: as many as no owner is sent too much of."""
        some: list[Task] = []
        coming = [0] * self._ranks.size
        for task in tasks:
            size = sum(math.prod(p.shape) for p in task.sent) * _dtype([task]).itemsize
            if some and coming[task.owner] + size > ROUND_BYTES and size:
                yield some
                some, coming = [], [0] * self._ranks.size
            some.append(task)
            coming[task.owner] += size
        if some:
            yield some

    # -- what every rank does ------------------------------------------------------------------

    def _round(self, capture: Capture, tasks: Sequence[Task]) -> None:
        device = local(tasks[0].target.parameter).device
        dtype, empty = _dtype(tasks), torch.zeros(0, device=device)
        numbers = [[empty.double()] for _ in range(self._ranks.size)]
        wholes = [[empty.to(dtype)] for _ in range(self._ranks.size)]
        for task in tasks:
            told, rows = self._found(capture, task, device)
            numbers[task.owner].append(told)
            wholes[task.owner] += [one.to(dtype).reshape(-1) for one in rows]
        mine = [task for task in tasks if task.owner == self._ranks.rank]
        sizes = [sum(self._size(capture, t, r) for t in mine) for r in range(self._ranks.size)]
        told_by = self._ranks.deliver(numbers, sizes)
        sizes = [
            sum(len(task.on(part, r)) * part.cols for task in mine for part in task.sent)
            for r in range(self._ranks.size)
        ]
        rows_by = [empty] * self._ranks.size
        if any(task.sent for task in tasks):
            rows_by = self._ranks.deliver(wholes, sizes)
        del wholes
        told_left = [_Stream(one) for one in told_by]
        rows_left = [_Stream(one) for one in rows_by]
        for task in mine:
            matrices = [self._assembled(task, part, rows_left) for part in task.sent]
            spread = [
                left.take(self._size(capture, task, rank)) for rank, left in enumerate(told_left)
            ]
            with self._guard.harmless():
                self._record(capture, task, spread, matrices)

    def _size(self, capture: Capture, task: Task, rank: int) -> int:
        """How many numbers a rank tells of a task."""
        sizes = (
            shard_size(len(task.on(part, rank)), part.cols, self._blank(capture, part))
            for part in task.norms
        )
        return COUNTS + sum(sizes)

    def _blank(self, capture: Capture, part: Part) -> Context:
        return Context(stage=part.name, rows_only=capture.rows_only(part.index))

    def read(self, capture: Capture, target: Target, slot: Slot, names: tuple[str, ...]) -> None:
        """Read this rank's rows of a target, so that what the step holds for it can go.

        Args:
            capture: of the step.
            target: sharded.
            slot: of this rank, not finished.
            names: what there is of it, as far as this rank knows.
        """
        task, here = self._task(capture, target, slot, names), self._ranks.rank
        facts, entry = capture.state_facts(target, slot), capture.entries[target.index]
        parts = local_parts(slot, entry, capture.optimizer, names)
        held_back = slot.held_back(parts["update"], entry.lr, facts.decay)
        numbers = {one.key: self._told(capture, task, one, parts, facts) for one in task.norms}
        rows = {one.key: task.rows(one, here, parts) for one in task.sent}
        for key in [key for key in rows if key[0] == "gradient"]:
            rows[key] = rows[key].clone()  # the optimizer may overwrite it while others are read
        for part in task.raw:
            self._write(task, part, parts, facts)
            capture.handed_over = True
        slot.finish(parts["update"])
        capture.read[target.index] = ReadRows(names, held_back, numbers, rows)

    def _found(
        self, capture: Capture, task: Task, device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        """This rank's numbers and rows of a task; zeros of the same sizes where it has none."""
        here, slot = self._ranks.rank, task.slot
        if slot is not None and not slot.finished:
            with self._guard.harmless():
                self.read(capture, task.target, slot, task.names)
        read = capture.read.pop(task.target.index, ReadRows())
        told = [torch.zeros(COUNTS, device=device) if read.counts is None else read.counts]
        for part in task.norms:
            blank, rows = self._blank(capture, part), len(task.on(part, here))
            size = shard_size(rows, part.cols, blank)
            told.append(read.numbers.get(part.key, torch.zeros(size, device=device)))
        found = [
            read.rows.get(part.key, torch.zeros(len(task.on(part, here)), part.cols, device=device))
            for part in task.sent
        ]
        return torch.cat([one.to(torch.float64) for one in told]), found

    def _told(
        self, capture: Capture, task: Task, part: Part, parts: Mapping[str, Tensor], facts: Facts
    ) -> Tensor:
        here, index = self._ranks.rank, part.index
        beside: dict[str, Tensor] = {}
        if part.rows is not None and part.name != "second_moment":
            names = [name for name in ("after", "weight", "gradient") if name in parts]
            beside = {name: task.rows(part, here, parts, name) for name in names}
        seen = Observed(
            self._layers[index],
            index,
            facts,
            {},
            after=beside.get("after"),
            weight=beside.get("weight"),
            gradient=beside.get("gradient"),
            weight_norm=capture.weight_norms.get(index, 0.0) if capture.rows_only(index) else None,
        )
        context = context_of(seen, part.name, None)
        rows, place = task.rows(part, here, parts), task.on(part, here).start
        return read_shard(rows, context, row_start=place, rows=part.shape[0])

    def _write(self, task: Task, part: Part, parts: Mapping[str, Tensor], facts: Facts) -> None:
        here = self._ranks.rank
        where = task.on(part, here)
        if len(where):
            rows = task.rows(part, here, parts)
            if part.name in LIVE:
                rows = rows.clone()
            layer = self._layers[part.index]
            self._records.blocks([Block(layer, facts, part.name, rows, where.start)])

    # -- what the owner does -------------------------------------------------------------------

    def _assembled(self, task: Task, part: Part, left: Sequence[_Stream]) -> Tensor:
        counts = [len(task.on(part, rank)) for rank in range(self._ranks.size)]
        blocks = [one.take(count * part.cols) for one, count in zip(left, counts, strict=True)]
        return torch.cat(blocks).reshape(part.shape)

    def _record(
        self, capture: Capture, task: Task, spread: Sequence[Tensor], matrices: Sequence[Tensor]
    ) -> None:
        facts = capture.facts.get(task.target.index)
        if facts is None or "update" not in task.names:
            return
        left = [_Stream(one) for one in spread]
        counts = torch.stack([one.take(COUNTS) for one in left]).sum(0)
        if not task.norms:
            wholes = {part.name: one for part, one in zip(task.sent, matrices, strict=True)}
            self._measure_whole(capture, task.target, wholes, facts, counts)
            return
        facts.count(counts.tolist())
        polynomial = polynomial_of(capture.optimizer.param_groups[task.target.group])
        floors = {}
        for part in task.norms:
            layer, index = self._layers[part.index], part.index
            blank = self._blank(capture, part)
            shards = []
            for rank, one in enumerate(left):
                rows = len(task.on(part, rank))
                shards.append((one.take(shard_size(rows, part.cols, blank)), rows))
            norm = 0.0 if blank.rows_only else None
            seen = Observed(layer, index, facts, {}, weight_norm=norm)
            context = context_of(seen, part.name, polynomial, self._records.previous.get(index))
            # rows travel as float32, as matrices are widened to on one process
            context = replace(context, operand_dtype=context.operand_dtype or torch.float32)
            partial, ulps = joined(shards, part.cols, context)
            if part.name == "update" and facts.source == "difference":
                floors[index] = floor_of_rounding(float(ulps), facts.entry.lr, layer.shape)
            capture.measured.append(Measured(layer, index, part.name, facts, partial))
        due: dict[int, dict[str, Tensor]] = {}
        for part, matrix in zip(task.sent, matrices, strict=True):
            due.setdefault(part.index, {})[part.name] = matrix
        for index, stages in due.items():
            capture.pending.append(
                Observed(
                    self._layers[index],
                    index,
                    facts,
                    stages,
                    gradient=stages.get("gradient"),
                    noise_floor=floors.get(index, 0.0),
                    stored=True,
                )
            )


@dataclass(slots=True)
class _Stream:
    """Numbers that are taken from the front."""

    numbers: Tensor
    at: int = 0

    def take(self, count: int) -> Tensor:
        self.at += count
        return self.numbers[self.at - count : self.at]


def _dtype(tasks: Sequence[Task]) -> torch.dtype:
    """In which matrices travel."""
    wide = any(precision(task.target.parameter) == torch.float64 for task in tasks)
    return torch.float64 if wide else torch.float32
