"""What is known of one optimizer's captured step while it lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from optgeom.hooks.clock import Plan
from optgeom.hooks.observe import Entry, Facts, Observed, expected_decay, facts_of
from optgeom.hooks.reading import Reading
from optgeom.hooks.records import Measured
from optgeom.hooks.slot import Slot
from optgeom.hooks.targets import Target


@dataclass(frozen=True, slots=True, eq=False)
class ReadRows:
    """What a rank has read of its rows of a sharded target; keys are of `parts.Part`.

    Attributes:
        names: what there is of it on this rank, as of `observe.PARTS`.
        counts: (4,) what rounding held back, as of `Slot.held_back`.
        numbers: of stages, as `geometry.shards.read_shard` gives them.
        rows: of what goes whole to its owner.
    """

    names: Sequence[str] = ()
    counts: Tensor | None = None
    numbers: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    rows: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Capture:
    """One optimizer's captured step; without a reading on a rank whose capture has failed.

    Attributes:
        optimizer: that makes the step.
        step: the recorder's.
        plan: of that step.
        targets: the parameters that are read.
        reading: told of the operations.
        by_mode: whether the dispatch mode is worn for them.
        by_calls: whether calls of the parameters' own methods are looked at.
        entries: settings at step entry, by target.
        weight_norms: before the step, of layers whose rows compare nothing else with them; of the
            rows that this rank has.
        facts: of targets that were measured on this rank.
        counts: what rounding held back of targets, as of `Slot.held_back`, not looked at yet.
        measured: what of them is to be written once the samples agree.
        read: rows of sharded targets that wait to be sent, by target.
        pending: matrices that wait for the background thread.
        handed_over: whether any of them went there, or to the writer, before the step's end.
    """

    optimizer: Any
    step: int
    plan: Plan
    targets: tuple[Target, ...]
    reading: Reading | None = None
    by_mode: bool = True
    by_calls: bool = False
    entries: dict[int, Entry] = field(default_factory=dict)
    weight_norms: dict[int, float | Tensor] = field(default_factory=dict)
    facts: dict[int, Facts] = field(default_factory=dict)
    counts: dict[int, Tensor] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    read: dict[int, ReadRows] = field(default_factory=dict)
    pending: list[Observed] = field(default_factory=list)
    handed_over: bool = False

    @property
    def slots(self) -> list[Slot]:
        """What was read of each target; empty on a rank whose capture has failed."""
        return [] if self.reading is None else self.reading.slots

    def rows_only(self, place: int) -> bool:
        """Whether a layer's row compares the update with nothing this time."""
        return place in self.plan.norms and place not in self.plan.compared

    def state_facts(self, target: Target, slot: Slot) -> Facts:
        """What a target's rows say, as far as it is known before the samples are compared."""
        entry = self.entries[target.index]
        decay = expected_decay(slot, entry)
        facts = facts_of(slot, entry, self.optimizer, self.step, decay)
        self.facts[target.index] = facts
        return facts
