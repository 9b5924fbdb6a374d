"""A computed update to the rows of a trace, measured as any update is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.catalogue import columns
from optgeom.geometry.companions import Reach
from optgeom.geometry.context import Context
from optgeom.geometry.counterfactual.computing import Cell
from optgeom.geometry.finish import finish_norms
from optgeom.geometry.kernels import LAPACK
from optgeom.geometry.measure import measure_spectrum, with_nuclear_norm
from optgeom.geometry.overlaps import length
from optgeom.geometry.partial import norms_pass
from optgeom.traces.reading.grid import Grid
from optgeom.traces.store import Trace

SOURCE = "computed"
"""What the column `source` of a computed row says."""

OWN_COLUMNS = {"cosine_applied": "float64", "entering": "string", "second_moment_from": "string"}
"""Columns of the table metrics that only computed traces have, with Arrow types: the cosine of the
computed update to the one that was applied; the stage that entered the rule; what the second moment
rests on (recorded, start, burst)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What is written of a cell.

    Attributes:
        metrics: Columns of the table metrics.
        neuron_norms: (m,) float32; NaN where there is no update.
        spectra: Columns of the table spectra.
        singular_values: (r,) float32 descending, or None.
        update: (m, n) float32, or None.
    """

    metrics: Mapping[str, Any]
    neuron_norms: NDArray[np.float32]
    spectra: Mapping[str, Any]
    singular_values: NDArray[np.float32] | None
    update: Tensor | None


class Recorded:
    """What the rows of the original say of its updates: lr, status, relative step, sizes."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._grids: dict[tuple[str, str], tuple[Grid, dict[int, int], dict[str, int]]] = {}
        words = trace.words("status") if "update" in trace.stages else None
        self._words = words

    def number(self, column: str, cell: Cell, stage: str = "update") -> float | None:
        """One column at a cell; None where there is none."""
        key = (column, stage)
        if key not in self._grids:
            grid = self._trace.grid(column, stage)
            rows = {int(step): row for row, step in enumerate(grid.steps)}
            self._grids[key] = (grid, rows, {name: at for at, name in enumerate(grid.layers)})
        grid, rows, places = self._grids[key]
        row, place = rows.get(cell.step), places.get(cell.layer.name)
        if row is None or place is None:
            return None
        value = float(grid.values[row, place])
        return value if math.isfinite(value) else None

    def status(self, cell: Cell) -> str:
        """What the original's row says of the update; "" where there is none."""
        words = self._words
        if words is None or cell.layer.name not in words.layers:
            return ""
        row = int(np.searchsorted(words.steps, cell.step))
        if row >= len(words.steps) or int(words.steps[row]) != cell.step:
            return ""
        code = int(words.codes[row, words.layers.index(cell.layer.name)])
        return words.words[code] if code >= 0 else ""

    def weight_norm(self, cell: Cell) -> float | None:
        """|W| before the step, from what is recorded of the step that was made."""
        lr, size, share = (
            self.number(name, cell) for name in ("lr", "frobenius_norm", "update_to_weight")
        )
        if lr is None or size is None or not share:
            return None
        return abs(lr) * size / share


@dataclass(slots=True)
class _Last:
    """The computed update before, as a sketch."""

    step: int
    sketch: Tensor


@dataclass(slots=True)
class Measuring:
    """Measures the cells of one rule, ascending by step; keeps one sketch per layer."""

    recorded: Recorded
    _last: dict[str, _Last] = field(default_factory=dict)

    @torch.no_grad()
    def rows(self, cell: Cell) -> Rows:
        """The rows of a cell.

        Args:
            cell: As it was computed; null everywhere where it has no update.
        """
        lr = self.recorded.number("lr", cell)
        facts = {
            "lr": lr,
            "source": SOURCE,
            "entering": cell.course.entering.stage,
            "second_moment_from": None if cell.basis is None else cell.basis.how,
        }
        if cell.update is None:
            return _nothing(cell, facts)
        name, update = cell.layer.name, cell.update
        context = self._context(cell, lr)
        (norms,) = finish_norms([norms_pass(update, context)])
        if norms.sketch is not None:
            self._last[name] = _Last(cell.step, norms.sketch)
        spectrum = measure_spectrum(update, self._with_nuclear_norm(cell, context), kernels=LAPACK)
        values = {**norms.values, **facts, "cosine_applied": _cosine(update, cell)}
        if values["update_to_weight"] is None and lr is not None:
            weight, size = self.recorded.weight_norm(cell), values["frobenius_norm"]
            if weight and isinstance(size, float):
                values["update_to_weight"] = abs(lr) * size / weight
        return Rows(values, norms.neuron_norms, spectrum.values, spectrum.singular_values, update)

    def _context(self, cell: Cell, lr: float | None) -> Context:
        last = self._last.get(cell.layer.name)
        said = self.recorded.status(cell)
        return Context(
            stage="update",
            source=SOURCE,
            status=said if said in ("lr_zero", "lr_absent") else "ok",
            lr=lr,
            weight=cell.companions.get("weight"),
            gradient=cell.companions.get("gradient"),
            previous_sketch=None if last is None else last.sketch,
            steps_since_previous=None if last is None else cell.step - last.step,
            second_moment_steps=None if cell.basis is None else self._averaged(cell),
        )

    def _averaged(self, cell: Cell) -> int | None:
        """How many steps the second moment has been averaging, as far as that is known."""
        assert cell.basis is not None
        if cell.basis.how != "recorded":
            return cell.basis.steps
        known = self.recorded.number("second_moment_steps", cell)
        return None if known is None else int(known)

    def _with_nuclear_norm(self, cell: Cell, context: Context) -> Context:
        if context.gradient is None:
            return context
        known = self.recorded.number("nuclear_norm", cell, "gradient")
        return with_nuclear_norm(replace(context, gradient_nuclear_norm=known), kernels=LAPACK)


def _nothing(cell: Cell, facts: Mapping[str, Any]) -> Rows:
    spectra = dict.fromkeys(columns("spectra"), None)
    return Rows(
        {**dict.fromkeys(columns("metrics"), None), **facts, "status": cell.status},
        np.full(cell.layer.shape[0], np.nan, np.float32),
        {**spectra, "spectrum_status": cell.status, "spectrum_method": None},
        None,
        None,
    )


def _cosine(update: Tensor, cell: Cell) -> float | None:
    """To the update that was applied."""
    applied = cell.companions.get("update")
    if applied is None:
        return None
    size = float(length(update))
    if not size:
        return None
    found = float(Reach.of(update, size * size).along(applied).length) / size
    return min(1.0, max(-1.0, found)) if math.isfinite(found) else None
