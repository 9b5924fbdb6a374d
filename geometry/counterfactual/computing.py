"""From the recorded matrices of a run to the updates of other rules, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from optgeom.geometry.analysis.ahead import ahead
from optgeom.geometry.counterfactual.course import Course
from optgeom.geometry.counterfactual.history import Basis
from optgeom.geometry.counterfactual.rule import Applied
from optgeom.geometry.counterfactual.wholes import Whole
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.info import LayerInfo
from optgeom.traces.store import Trace

Key = tuple[str, str]
"""Layer and stage."""

COMPANIONS = ("gradient", "weight", "update")
"""What a computed update is compared with, where the trace holds it at that step."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The matrices of one whole at one step.

    Attributes:
        step: The step.
        courses: What is to be done there.
        matrices: By layer and stage, (m, n) float32, of those that are there and complete.
    """

    step: int
    courses: tuple[Course, ...]
    matrices: Mapping[Key, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What a rule gives at one cell.

    Attributes:
        course: The rule and the matrix.
        layer: The layer.
        step: The step.
        update: (m, n) float32; None where `status` says why.
        status: "ok", "no_second_moment", "incomplete", or "second_moment_incomplete" where a matrix
            that the second moment needs is not complete.
        basis: What the second moment rests on; None of a rule without one.
        companions: The recorded matrices of the cell, by stage.
    """

    course: Course
    layer: LayerInfo
    step: int
    update: Tensor | None
    status: str
    basis: Basis | None
    companions: Mapping[str, Tensor]


def computed(trace: Trace, courses: Sequence[Course]) -> Iterator[Cell]:
    """Apply the rules, ascending by step, then in the model's order.

    A few matrices are in memory at a time: those of one layer at one step, and the next ones, which
    are read meanwhile. Of every rule and layer its second moment is kept.

    Args:
        trace: To read raw matrices of.
        courses: What is to be done.

    Yields:
        Every wanted cell.
    """
    held: dict[int, _Held] = {id(one): _Held() for one in courses}
    with closing(ahead(_loaded(trace, courses))) as loads:
        for load in loads:
            for course in load.courses:
                yield from _cells(course, load, held[id(course)])


@dataclass(slots=True)
class _Held:
    """The second moment of a rule in a layer.

    Attributes:
        second_moment: After the last step; None for zeros.
        anchored: Whether it rests on the run's first step, where it is zero, or on a recorded one.
        broken: Whether a matrix that it needs could not be read.
    """

    second_moment: Tensor | None = None
    anchored: bool = False
    broken: bool = False

    def begin(self, *, at_start: bool) -> None:
        """Forget: nothing is carried over from the step before."""
        self.second_moment, self.anchored, self.broken = None, at_start, False

    def meet(self, *, expected: bool, found: bool) -> None:
        """Take up whether the run's own could be read, where it is expected."""
        if found:
            self.anchored, self.broken = True, False
        elif expected and not self.anchored:
            self.broken = True


def _cells(course: Course, load: Loaded, held: _Held) -> Iterator[Cell]:
    step = load.step
    basis = None if course.bases is None else course.bases[step]
    if basis is not None and basis.begins:
        held.begin(at_start=step == 0)
    update, status = None, "ok"
    if step in course.applied:
        matrix = _enters(course, load.matrices)
        after = None
        if step in course.recorded:
            after = load.matrices.get((course.whole.layers[0].name, "second_moment"))
        held.meet(expected=step in course.recorded, found=after is not None)
        if matrix is None:
            held.anchored, held.broken, status = False, basis is not None, "incomplete"
        elif held.broken:
            status = "second_moment_incomplete"
        else:
            applied = _applied(course, matrix, held.second_moment, after)
            held.second_moment, update = applied.second_moment, applied.update
    if basis is not None and not basis.known:
        update, status = None, "no_second_moment"
    if step not in course.wanted:
        return
    pieces = [None] * len(course.whole.layers) if update is None else course.whole.cut(update)
    for layer, piece in zip(course.whole.layers, pieces, strict=True):
        if layer in course.layers:
            companions = {
                stage: load.matrices[layer.name, stage]
                for stage in COMPANIONS
                if (layer.name, stage) in load.matrices
            }
            yield Cell(course, layer, step, piece, status, basis, companions)


def _applied(
    course: Course, matrix: Tensor, before: Tensor | None, after: Tensor | None
) -> Applied:
    with torch.no_grad():
        found = course.rule.apply(matrix, before, after)
    if found.update.shape != matrix.shape:
        raise OptgeomError(
            f"the rule {course.rule.name} made {tuple(found.update.shape)} of a matrix "
            f"{tuple(matrix.shape)}: an update has the shape of what enters"
        )
    return found


def _enters(course: Course, matrices: Mapping[Key, Tensor]) -> Tensor | None:
    entering = course.entering
    matrix = _joined(course.whole, matrices, entering.stage)
    if matrix is None or entering.mixing is None:
        return matrix
    gradient = _joined(course.whole, matrices, "gradient")
    weight = _joined(course.whole, matrices, "weight") if entering.mixing.decay else None
    if gradient is None or (entering.mixing.decay and weight is None):
        return None
    return entering.mixing.look_ahead(matrix, gradient, weight)


def _joined(whole: Whole, matrices: Mapping[Key, Tensor], stage: str) -> Tensor | None:
    found = [matrices.get((layer.name, stage)) for layer in whole.layers]
    there = [one for one in found if one is not None]
    return whole.joined(there) if len(there) == len(found) else None


def _loaded(trace: Trace, courses: Sequence[Course]) -> Iterator[Loaded]:
    names = {layer.name for course in courses for layer in course.whole.layers}
    there = {
        (name, stage): trace.attempts(name, stage)
        for name, stage in trace.cell_names("updates")
        if name in names
    }
    order = {layer.name: place for place, layer in enumerate(trace.layers)}
    at: dict[tuple[int, int], list[Course]] = {}
    for course in courses:
        place = order[course.whole.layers[0].name]
        for step in course.steps:
            at.setdefault((step, place), []).append(course)
    for (step, _), due in sorted(at.items(), key=lambda one: one[0]):
        needed = dict.fromkeys(one for course in due for one in _needed(course, step))
        matrices: dict[Key, Tensor] = {}
        for layer, stage in needed:
            if step not in there.get((layer.name, stage), {}):
                continue
            matrix = _matrix(trace, step, layer, stage)
            if matrix is not None:
                matrices[layer.name, stage] = matrix
        yield Loaded(step, tuple(due), matrices)


def _matrix(trace: Trace, step: int, layer: LayerInfo, stage: str) -> Tensor | None:
    """One raw matrix; None where blocks of it are missing, as where a rank ended too early."""
    try:
        found = trace.matrix(step, layer.name, stage)
    except NotCaptured:
        return None
    # a second moment of another shape than this one is no such rule's
    whole = (layer.shape[0], 1) if stage == "second_moment" else layer.shape
    return torch.from_numpy(found) if found.shape == whole else None


def _needed(course: Course, step: int) -> Iterator[tuple[LayerInfo, str]]:
    """What a course looks at: companions only where there is an update to compare."""
    if step not in course.applied:
        return
    for layer in course.whole.layers:
        yield from ((layer, stage) for stage in course.entering.stages)
        if step in course.recorded:
            yield layer, "second_moment"
    if step in course.wanted and (course.bases is None or course.bases[step].known):
        yield from ((layer, stage) for layer in course.layers for stage in COMPANIONS)
