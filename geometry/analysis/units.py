"""What of a trace is still to be measured, in units that any process can measure by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from optgeom.geometry.analysis.records import ANALYSIS_VERSION, Record, records_of, unrecorded
from optgeom.geometry.measure import WITHOUT_SPECTRUM
from optgeom.geometry.partial import GRADIENT_STAGES
from optgeom.traces.errors import NotCaptured
from optgeom.traces.info import LayerInfo
from optgeom.traces.schema import STAGES
from optgeom.traces.store import Trace

UNIT_BYTES = 128 << 20
"""Raw float32 matrices of a unit, about: a second's work or two."""

GROUP_BYTES = 8 << 20
"""Layers whose matrices of a step are smaller than this together are measured together: a file
gives them up a few megabytes at a time."""

LONGEST_UNIT = 64
"""Captures in a unit at most."""


@dataclass(frozen=True, slots=True)
class Task:
    """One captured step of a layer.

    Attributes:
        layer: The layer.
        step: The step.
        raw: Stages whose matrices the trace holds.
        pending: Those of them that are to be measured, with what is recorded of each.
        gradient_nuclear_norm: As recorded with the gradient.
        previous_step: The step of the raw update before; None if this is the first.
        expected: Condition number by stage, as recorded at the capture before in the same unit.
    """

    layer: LayerInfo
    step: int
    raw: tuple[str, ...]
    pending: Mapping[str, Record]
    gradient_nuclear_norm: float | None
    previous_step: int | None
    expected: Mapping[str, float]

    @property
    def needed(self) -> tuple[str, ...]:
        """The stages whose matrices are read: those pending, and their companions."""
        wanted = set[str]().union(*(self.needs(stage) for stage in self.pending))
        return tuple(stage for stage in self.raw if stage in wanted)

    def needs(self, stage: str) -> set[str]:
        """The stages whose matrices a pending one is measured from."""
        wanted, record = {stage}, self.pending[stage]
        if stage in GRADIENT_STAGES and record.lacks("cosine_gradient"):
            wanted.add("gradient")
        if stage == "update":
            if record.lacks("descent_efficiency"):
                wanted.add("gradient")
            lacks_weight = record.lacks("update_to_weight", "radial_fraction")
            if lacks_weight or record.facts.get("source") == "difference":
                wanted.add("weight")
        if stage == "orthogonalized" and self._lacks_row_error:
            wanted.add("ns_input")
        return wanted & set(self.raw)

    @property
    def lacks_cosine(self) -> bool:
        """Whether the update before is needed."""
        update = self.pending.get("update")
        return (
            self.previous_step is not None
            and update is not None
            and update.lacks("cosine_previous")
        )

    @property
    def lacks_descent(self) -> bool:
        """Whether the update's spectrum needs the gradient's nuclear norm."""
        update = self.pending.get("update")
        return update is not None and "gradient" in self.raw and update.lacks("descent_efficiency")

    def lacks_spectrum(self, stage: str) -> bool:
        """Whether a stage has to be decomposed, for itself or for another."""
        if stage in WITHOUT_SPECTRUM:
            return False
        if stage == "ns_input" and self._lacks_row_error:
            return True
        record = self.pending.get(stage)
        if record is None or not record.may_have_spectrum:
            return False
        lacking = {
            "ns_input": ("condition_number", "leverage_cv"),
            "orthogonalized": ("condition_number", "sigma_min"),
        }.get(stage, ("condition_number",))
        return (
            record.lacks(*lacking)
            or (stage == "orthogonalized" and self._lacks_row_error)
            or (stage == "update" and self.lacks_descent)
        )

    @property
    def _lacks_row_error(self) -> bool:
        record = self.pending.get("orthogonalized")
        return (
            record is not None
            and "ns_input" in self.raw
            and record.may_have_spectrum
            and record.lacks("ns_row_error")
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive captures of one layer, or of a few small ones that lie together in their files.

    The same ones whoever asks, and whatever has been measured of them.

    Attributes:
        captures: The tasks of each step, ascending by step.
        nbytes: Memory that measuring it takes, about.
        version: The analysis that made it.
    """

    captures: tuple[tuple[Task, ...], ...]
    nbytes: int
    version: int = ANALYSIS_VERSION

    @property
    def cells(self) -> int:
        """How many cells it measures."""
        return sum(len(task.pending) for tasks in self.captures for task in tasks)


def pending(trace: Trace) -> list[Unit]:
    """The units of a trace that are not measured, in the model's order.

    Args:
        trace: Any trace; of its raw matrices the keys alone are read.
    """
    records = records_of(trace)
    units: list[Unit] = []
    group: list[_Captured] = []
    stages = [stage for stage in STAGES if len(trace.steps(stage=stage, table="updates"))]
    for layer in trace.layers:
        try:
            captured = _Captured.of(trace, layer, stages)
        except NotCaptured:
            continue  # nothing of the layer is in any table
        if not captured.steps:
            continue
        group.append(captured)
        if sum(one.step_bytes for one in group) >= GROUP_BYTES:
            units.extend(_units(trace, group, records))
            group = []
    if group:
        units.extend(_units(trace, group, records))
    return units


@dataclass(frozen=True, slots=True)
class _Captured:
    """The raw matrices of a layer: by stage, the attempt of each step."""

    layer: LayerInfo
    by_stage: Mapping[str, Mapping[int, int]]

    @classmethod
    def of(cls, trace: Trace, layer: LayerInfo, stages: Iterable[str]) -> _Captured:
        found = {stage: trace.attempts(layer.name, stage) for stage in stages}
        return cls(layer, {stage: attempts for stage, attempts in found.items() if attempts})

    @property
    def steps(self) -> set[int]:
        return set().union(*self.by_stage.values())

    @property
    def step_bytes(self) -> int:
        rows, cols = self.layer.shape
        return 4 * rows * cols * len(self.by_stage)

    @property
    def work_bytes(self) -> int:
        """Two captures, an update before, a matrix as it is read, two float64 copies, products."""
        rows, cols = self.layer.shape
        return 2 * self.step_bytes + (4 + 8 + 16) * rows * cols + 40 * min(rows, cols) ** 2


def _units(
    trace: Trace, group: list[_Captured], records: Mapping[tuple[int, str, str], Record]
) -> Iterator[Unit]:
    steps = sorted(set[int]().union(*(one.steps for one in group)))
    length = UNIT_BYTES // max(1, sum(one.step_bytes for one in group))
    length = min(LONGEST_UNIT, max(1, length))
    nbytes = sum(one.work_bytes for one in group)
    previous: dict[str, int] = {}
    for begin in range(0, len(steps), length):
        captures: list[tuple[Task, ...]] = []
        before: int | None = None
        for step in steps[begin : begin + length]:
            tasks = []
            for one in group:
                task = _task(trace, one, step, previous.get(one.layer.name), before, records)
                if task is not None:
                    tasks.append(task)
                if step in one.by_stage.get("update", ()):
                    previous[one.layer.name] = step
            if tasks:
                captures.append(tuple(tasks))
            before = step
        if captures:
            yield Unit(tuple(captures), nbytes)


def _task(
    trace: Trace,
    captured: _Captured,
    step: int,
    previous: int | None,
    before: int | None,
    records: Mapping[tuple[int, str, str], Record],
) -> Task | None:
    layer = captured.layer
    raw = {stage: steps[step] for stage, steps in captured.by_stage.items() if step in steps}
    left = {}
    for stage, attempt in raw.items():
        record = records.get((step, layer.name, stage))
        record = record or unrecorded(trace, layer, step, stage, attempt)
        if not record.is_done:
            left[stage] = record
    if not left:
        return None
    gradient = records.get((step, layer.name, "gradient"))
    nuclear = None if gradient is None else gradient.facts.get("nuclear_norm")
    if previous is not None and "update" in raw:
        attempts = captured.by_stage["update"]
        if not _is_ancestor(trace, previous, attempts[previous], attempts[step]):
            previous = None
    expected = {}
    if before is not None:
        for stage in raw:
            known = records.get((before, layer.name, stage))
            number = None if known is None else known.facts.get("condition_number")
            if number is not None:
                expected[stage] = float(number)
    return Task(layer, step, tuple(raw), left, nuclear, previous, expected)


def _is_ancestor(trace: Trace, step: int, attempt: int, later: int) -> bool:
    """Whether a later attempt went on from an attempt's step, and did not begin before it."""
    starts = [one.start_step for one in trace.info.attempts if attempt < one.attempt <= later]
    return all(step < start for start in starts)


def left_out(trace: Trace) -> list[str]:
    """Raw matrices that are in no unit, a sentence each: what run.json does not name."""
    known = {layer.name for layer in trace.layers}
    found = trace.cell_names("updates")
    layers = sorted({layer for layer, _ in found} - known)
    stages = sorted({stage for _, stage in found} - set(STAGES))
    sentences = []
    if layers:
        sentences.append(f"run.json names no layer {', '.join(layers)}")
    if stages:
        sentences.append(f"no stage is called {', '.join(stages)}")
    return sentences
