"""From whole matrices to rows of a trace: norms at once, spectra when the background gets to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.context import Context
from optgeom.geometry.measure import measure_norms, measure_spectrum
from optgeom.hooks.observe import Observed
from optgeom.optim.newton_schulz import COEFFICIENT_SETS
from optgeom.traces.schema import Cell
from optgeom.traces.writer import TraceWriter

Polynomial = Sequence[Sequence[float]] | None
"""Rows of an orthogonalization's odd polynomials, in order; None where none is known."""

LIVE = ("gradient", "momentum")
"""Stages that may be the optimizer's or the loop's own tensors."""


@dataclass(slots=True)
class Previous:
    """The last captured update of a layer, as a sketch."""

    step: int
    sketch: Tensor


@dataclass(slots=True)
class Records:
    """Writes what was observed; keeps one sketch per layer between captures."""

    writer: TraceWriter
    optimizers: Sequence[str]
    previous: dict[int, Previous] = field(default_factory=dict)

    def cell(self, seen: Observed, stage: str) -> Cell:
        """The key of one matrix."""
        layer = seen.layer
        return Cell(
            step=seen.step,
            optimizer=self.optimizers[layer.optimizer],
            layer=layer.name,
            kind=layer.kind,
            block=layer.block,
            stage=stage,
        )

    def norms(self, seen: Observed, polynomial: Polynomial) -> None:
        """Measure and write the norms clock's rows of all stages of a layer."""
        for stage, matrix in seen.stages.items():
            context = context_of(seen, stage, polynomial)
            if stage == "update" and (last := self.previous.get(seen.index)) is not None:
                context = replace(
                    context,
                    previous_sketch=last.sketch,
                    steps_since_previous=seen.step - last.step,
                )
            row = measure_norms(matrix, context)
            cell = self.cell(seen, stage)
            self.writer.metrics(cell, row.values | facts(seen, stage))
            self.writer.neurons(cell, row.neuron_norms)
            if stage == "update" and row.sketch is not None:
                self.previous[seen.index] = Previous(seen.step, row.sketch)

    def spectra(self, seen: Observed, polynomial: Polynomial) -> None:
        """Measure and write singular values; what one stage yields, a later one is given."""
        nuclear: float | None = None
        polar: Any = None
        for stage, matrix in seen.stages.items():
            context = replace(
                context_of(seen, stage, polynomial),
                gradient_nuclear_norm=nuclear if stage == "update" else None,
                polar_row_norms=polar if stage == "orthogonalized" else None,
            )
            row = measure_spectrum(matrix, context)
            self.writer.spectrum(self.cell(seen, stage), row.singular_values, row.values)
            if stage == "gradient":
                value = row.values.get("nuclear_norm")
                nuclear = None if value is None else float(value)
            elif stage == "ns_input":
                polar = row.polar_row_norms

    def updates(self, seen: Observed) -> None:
        """Hand raw matrices over to be stored."""
        for stage, matrix in seen.stages.items():
            values = matrix.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
            self.writer.update(self.cell(seen, stage), values, dtype="float32")


def context_of(seen: Observed, stage: str, polynomial: Polynomial) -> Context:
    """What the metrics of one stage may know beside the matrix."""
    if stage != "update":
        status = "ok" if seen.status in ("lr_zero", "lr_absent", "unverified") else seen.status
        return Context(
            stage=stage,
            source=source_of(seen, stage),
            status=status,
            gradient=None if stage == "gradient" else seen.gradient,
            polynomial=polynomial,
        )
    return Context(
        stage=stage,
        source=seen.source,
        status=seen.status,
        lr=seen.entry.lr,
        weight=seen.weight,
        gradient=seen.gradient,
        noise_floor=seen.noise_floor,
        operand_dtype=seen.operand_dtype,
        lost_update_fraction=seen.lost_update_fraction,
        lost_decay_fraction=seen.lost_decay_fraction,
        second_moment_steps=seen.second_moment_steps,
        polynomial=polynomial,
    )


def source_of(seen: Observed, stage: str) -> str | None:
    """How a stage was read; None for gradients and weights, which are simply there."""
    if stage == "update":
        return seen.source
    if stage in seen.tapped:
        return "tap"
    return "state" if stage == "momentum" else None


def facts(seen: Observed, stage: str) -> dict[str, Any]:
    """The fixed columns of a metrics row, beside what was measured."""
    if stage != "update":
        return {"source": source_of(seen, stage)}
    return {
        "lr": seen.entry.lr,
        "decay": seen.decay,
        "decay_form": seen.decay_form,
        "weight_decay": seen.entry.weight_decay,
        "source": seen.source,
    }


def detached(seen: Observed) -> Observed:
    """The same matrices, fit to outlive the step: what others go on writing to is copied."""
    stages = {
        stage: matrix.clone() if stage in LIVE else matrix for stage, matrix in seen.stages.items()
    }
    gradient = stages.get("gradient", seen.gradient)
    if gradient is seen.gradient and gradient is not None:
        gradient = gradient.clone()
    return replace(seen, stages=stages, gradient=gradient)


def polynomial_of(group: Mapping[str, Any]) -> Polynomial:
    """The orthogonalizing polynomial of a parameter group, where it names one we know."""
    known = COEFFICIENT_SETS.get(str(group.get("coefficients")))
    if known is None or group.get("algorithm") == "adamw":
        return None
    return known.schedule(group.get("ns_steps") or known.steps)
