"""From whole matrices to rows of a trace: norms at once, spectra when the background gets to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.context import Context
from optgeom.geometry.finish import finish_norms
from optgeom.geometry.measure import WITHOUT_SPECTRUM, measure_spectrum
from optgeom.geometry.partial import Partial, is_lost, norms_pass
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Layer
from optgeom.hooks.observe import Facts, Observed
from optgeom.hooks.streams import on_host
from optgeom.optim.newton_schulz import COEFFICIENT_SETS
from optgeom.traces.schema import Cell
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.rows import CellRow

Polynomial = Sequence[Sequence[float]] | None
"""Rows of an orthogonalization's odd polynomials, in order; None where none is known."""

LIVE = ("gradient", "momentum", "second_moment", "weight")
"""Stages that may be the optimizer's or the loop's own tensors."""


@dataclass(slots=True)
class Previous:
    """The last captured update of a layer, as a sketch."""

    step: int
    sketch: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One stage of one layer, read; its row is written when the step is verified."""

    layer: Layer
    index: int
    stage: str
    facts: Facts
    partial: Partial


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows of a raw matrix, (r, n), and where they belong."""

    layer: Layer
    facts: Facts
    stage: str
    rows: Tensor
    row_start: int = 0


@dataclass(slots=True)
class Records:
    """Writes what was observed; keeps one sketch per layer between captures.

    Rows of the norms clock are summed up on the writer's thread, when it is about to flush.
    """

    writer: TraceWriter
    optimizers: Sequence[str]
    guard: Guard
    previous: dict[int, Previous] = field(default_factory=dict)

    def cell(self, layer: Layer, step: int, stage: str) -> Cell:
        """The key of one matrix."""
        return Cell(
            step=step,
            optimizer=self.optimizers[layer.optimizer],
            layer=layer.name,
            kind=layer.kind,
            block=layer.block,
            stage=stage,
        )

    def measure(self, seen: Observed, polynomial: Polynomial) -> list[Measured]:
        """Read all stages of a layer for the norms clock; the matrices may go then."""
        found = []
        last = self.previous.get(seen.index)
        for stage, matrix in seen.stages.items():
            read = norms_pass(matrix, context_of(seen, stage, polynomial, last))
            found.append(Measured(seen.layer, seen.index, stage, seen.facts, read))
        return found

    def norms(self, measured: Sequence[Measured]) -> None:
        """Write the rows of matrices that were measured, their facts now complete."""
        for one in measured:
            if one.partial.sketch is not None:
                self.previous[one.index] = Previous(one.facts.step, one.partial.sketch)
        if measured:
            size = sum(one.partial.numbers.nbytes for one in measured)
            self.writer.cells(partial(self._finished, tuple(measured)), len(measured), size)

    def _finished(self, measured: Sequence[Measured]) -> list[CellRow]:
        rows: list[CellRow] = []
        with self.guard.harmless(), torch.no_grad():
            partials = [
                one.partial
                if one.stage != "update" or one.facts.status == one.partial.status
                else replace(one.partial, status=one.facts.status)
                for one in measured
            ]
            for one, row in zip(measured, finish_norms(partials), strict=True):
                cell = self.cell(one.layer, one.facts.step, one.stage)
                rows.append((cell, row.values | facts(one.facts, one.stage), row.neuron_norms))
        return rows

    def spectra(self, seen: Observed, polynomial: Polynomial) -> None:
        """Measure and write singular values; what one stage yields, a later one is given."""
        nuclear: float | None = None
        polar: Any = None
        for stage, matrix in seen.stages.items():
            if stage in WITHOUT_SPECTRUM:
                continue
            context = replace(
                context_of(seen, stage, polynomial),
                gradient_nuclear_norm=nuclear if stage == "update" else None,
                polar_row_norms=polar if stage == "orthogonalized" else None,
            )
            row = measure_spectrum(matrix, context)
            cell = self.cell(seen.layer, seen.facts.step, stage)
            self.writer.spectrum(cell, row.singular_values, row.values)
            if stage == "gradient":
                value = row.values.get("nuclear_norm")
                nuclear = None if value is None else float(value)
            elif stage == "ns_input":
                polar = row.polar_row_norms

    def updates(self, whole: Sequence[Observed]) -> None:
        """Hand raw matrices over to be stored; they are kept, so they have to be `detached`."""
        found = [
            Block(seen.layer, seen.facts, stage, matrix)
            for seen in whole
            for stage, matrix in seen.stages.items()
        ]
        self.blocks(found)

    def blocks(self, blocks: Sequence[Block]) -> None:
        """Hand rows of raw matrices over to be stored; they are kept."""
        for one, values in zip(blocks, on_host([one.rows for one in blocks]), strict=True):
            cell = self.cell(one.layer, one.facts.step, one.stage)
            self.writer.update(cell, values, dtype="float32", row_start=one.row_start)


def counted(measured: Measured) -> Measured:
    """The same, where what rounding held back has been counted since it was read."""
    known = measured.facts
    if measured.stage != "update":
        return measured
    lost = is_lost(known.source, known.lost_update_fraction)
    return replace(measured, partial=replace(measured.partial, lost=lost))


def context_of(
    seen: Observed, stage: str, polynomial: Polynomial, last: Previous | None = None
) -> Context:
    """What the metrics of one stage may know beside the matrix."""
    known = seen.facts
    if stage != "update":
        return Context(
            stage=stage,
            source=source_of(known, stage),
            gradient=None if stage in ("gradient", "second_moment") else seen.gradient,
            rows_only=seen.weight_norm is not None,
            polynomial=polynomial,
        )
    return Context(
        stage=stage,
        source=known.source,
        status=known.status,
        lr=known.entry.lr,
        weight=seen.weight,
        weight_after=seen.after if seen.weight is None else None,
        decay=known.decay,
        gradient=seen.gradient,
        noise_floor=seen.noise_floor,
        operand_dtype=known.operand_dtype,
        lost_update_fraction=known.lost_update_fraction,
        lost_decay_fraction=known.lost_decay_fraction,
        previous_sketch=None if last is None else last.sketch,
        steps_since_previous=None if last is None else known.step - last.step,
        second_moment_steps=known.second_moment_steps,
        rows_only=seen.weight_norm is not None,
        weight_norm=seen.weight_norm,
        polynomial=polynomial,
    )


def source_of(known: Facts, stage: str) -> str | None:
    """How a stage was read; None for gradients and weights, which are simply there."""
    if stage == "update":
        return known.source
    if stage in known.tapped:
        return "tap"
    return "state" if stage in ("momentum", "second_moment") else None


def facts(known: Facts, stage: str) -> dict[str, Any]:
    """The columns of a metrics row that the capture knows, beside what was measured."""
    if stage != "update":
        return {"source": source_of(known, stage)}
    return {
        "lr": known.entry.lr,
        "decay": known.decay,
        "decay_form": known.decay_form,
        "weight_decay": known.entry.weight_decay,
        "source": known.source,
        "lost_update_fraction": known.lost_update_fraction,
        "lost_decay_fraction": known.lost_decay_fraction,
    }


def detached(seen: Observed) -> Observed:
    """The same matrices, fit to outlive the step: what others go on writing to is copied."""
    is_live = {"update"} if "update" in seen.facts.tapped else set()
    stages = {
        stage: matrix.clone() if stage in LIVE or stage in is_live else matrix
        for stage, matrix in seen.stages.items()
    }
    return replace(seen, stages=stages, after=None, weight=None, gradient=stages.get("gradient"))


def polynomial_of(group: Mapping[str, Any]) -> Polynomial:
    """The orthogonalizing polynomial of a parameter group, where it names one we know."""
    known = COEFFICIENT_SETS.get(str(group.get("coefficients")))
    if known is None or group.get("algorithm") == "adamw":
        return None
    return known.schedule(group.get("ns_steps") or known.steps)
