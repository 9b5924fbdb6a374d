"""What is known about a matrix beside its entries: stage, weight, gradient, how it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Context:
    """All that a metric needs and the matrix does not hold; every field may stay unset.

    Metrics whose ingredient is missing, or that are not defined on the stage, are null.

    Attributes:
        stage: Stage of the matrix, as in the trace.
        source: How it was read: dispatch, tap, state or difference.
        status: What the capture says of the row; "ok" leaves the word to the measurement.
        lr: Divisor of the update.
        weight: W before the step, (m, n), any float dtype, the matrix's device.
        weight_after: W after the step, where W before it is not at hand: of an update's weight
            metrics it gives the same, by `companions.along_weight_before`. Needs lr.
        decay: How much of W the step took away beside the update; for weight_after.
        gradient: G, (m, n), any float dtype, the matrix's device.
        gradient_nuclear_norm: Sum of the gradient's singular values, for descent_efficiency, as the
            spectrum of the stage gradient gives it.
        noise_floor: In units of the matrix's singular values: everything at or below is
            unresolved. `optgeom.geometry.floor.difference_floor` gives it for differences.
        operand_dtype: Dtype of what was read before it was widened; None: the matrix's own.
        lost_update_fraction: Share of entries that the update could not move.
        lost_decay_fraction: Share of entries that the decay could not move.
        previous_sketch: Sketch of the previous captured update of the same layer, (4096,).
        steps_since_previous: Steps since that capture.
        second_moment_steps: Steps that the second moment has been averaging.
        rows_only: Leave out what costs more than the norms of the rows: those of the columns, the
            sketch, and what compares the matrix with weight, gradient and the update before.
        weight_norm: |W| before the step, for an update's relative step where `rows_only` leaves the
            weight unread: see `optgeom.geometry.overlaps.length`.
        polynomial: Rows (a, b, c) of the odd polynomials a x + b x^3 + c x^5 in use, in order.
        expected_condition_number: Of the same layer and stage at the step before, or of another
            matrix like it: where it is low, a cheaper method may do. See `singular_values`.
        polar_row_norms: Row norms of the polar factor of ns_input, (m,), as `measure_spectrum`
            returned them for that stage; for the row error of `orthogonalized`.
    """

    stage: str = "update"
    source: str | None = None
    status: str = "ok"
    lr: float | None = None
    weight: Tensor | None = None
    weight_after: Tensor | None = None
    decay: float = 0.0
    gradient: Tensor | None = None
    gradient_nuclear_norm: float | None = None
    noise_floor: float = 0.0
    operand_dtype: torch.dtype | None = None
    lost_update_fraction: float | None = None
    lost_decay_fraction: float | None = None
    previous_sketch: Tensor | None = None
    steps_since_previous: int | None = None
    second_moment_steps: int | None = None
    rows_only: bool = False
    weight_norm: float | Tensor | None = None
    polynomial: Sequence[Sequence[float]] | None = None
    expected_condition_number: float | None = None
    polar_row_norms: NDArray[np.float64] | None = None
