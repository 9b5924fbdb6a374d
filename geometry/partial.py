"""What measuring must read matrices for: a few small tensors, without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.catalogue import METRICS
from optgeom.geometry.companions import NOTHING, Reach
from optgeom.geometry.context import Context
from optgeom.geometry.norms import line_norms, row_norms
from optgeom.geometry.rounding import LOST_LIMIT
from optgeom.geometry.scaling import reachable
from optgeom.geometry.sketch import sketch
from optgeom.traces.errors import OptgeomError

LEADING = 3
"""How many numbers stand before the norms of the lines in `Partial.numbers`."""

GRADIENT_STAGES = frozenset(METRICS["cosine_gradient"].stages)
"""The stages that are compared with the gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A matrix that has been read, on its way to a row of the norms clock.

    Holds none of the matrices that it was made from. `finish_norms` makes the row.

    Attributes:
        shape: (m, n).
        stage: Of the context.
        status: Of the context.
        lost: Whether the context says that a difference lost its entries.
        facts: Columns that the context decides alone.
        lr: Of the context.
        steps_since_previous: Of the context.
        numbers: (3 + m + n,) float64 on the matrix's device: <A, W> / |W|, |W|, <A, G> / |G|, NaN
            where there is none, and then the norms of the rows and of the columns; (3 + m,) where
            the context asks for the rows only.
        sketch: (4096,) on the matrix's device, of an update; else None.
        previous_sketch: Of the context.
        operand_dtype: Of what was read before it was widened, such as bfloat16.
    """

    shape: tuple[int, int]
    stage: str
    status: str
    lost: bool
    facts: dict[str, float | int | None]
    lr: float | None
    steps_since_previous: int | None
    numbers: Tensor
    sketch: Tensor | None
    previous_sketch: Tensor | None
    operand_dtype: str | None = None


def norms_pass(matrix: Tensor, context: Context | None = None) -> Partial:
    """Read a matrix, and those of its context, for a row of the norms clock.

    The first half of `measure_norms`: afterwards the matrices may be dropped or written to. Never
    waits for a device; on a CPU it looks at values to choose the fast way.

    Cost: one read of the matrix, one more for an update's sketch, and one for each matrix in the
    context, which is read twice; meant for the training thread. `benchmarks/norms.py` has numbers.

    Args:
        matrix: (m, n), m, n >= 1, any float dtype and device, rows = neurons; left as it is.
        context: What else is known.

    Returns:
        For `finish_norms`.

    Raises:
        OptgeomError: if the matrix, or one in the context, has the wrong shape or dtype.
    """
    context = context or Context()
    check(matrix, context)
    matrix = reachable(matrix.detach())
    is_update = context.stage == "update" and not context.rows_only
    norms = row_norms(matrix) if context.rows_only else line_norms(matrix)
    numbers = _after(_leading(matrix, norms, context), norms)
    shape = (matrix.shape[0], matrix.shape[1])
    found = sketch(matrix) if is_update else None
    return partial_of(shape, context, numbers, found, matrix.dtype)


def partial_of(
    shape: tuple[int, int],
    context: Context,
    numbers: Tensor,
    sketch: Tensor | None,
    dtype: torch.dtype | None = None,
) -> Partial:
    """Put what was read of a matrix, of some dtype, beside what the context says."""
    operand = context.operand_dtype or dtype
    return Partial(
        shape=shape,
        stage=context.stage,
        status=context.status,
        lost=is_lost(context.source, context.lost_update_fraction),
        facts=_facts(context),
        lr=context.lr,
        steps_since_previous=context.steps_since_previous,
        numbers=numbers,
        sketch=sketch,
        previous_sketch=None if sketch is None else context.previous_sketch,
        operand_dtype=None if operand is None else str(operand).removeprefix("torch."),
    )


def check(matrix: Tensor, context: Context) -> None:
    """Raise an OptgeomError if a matrix and its context do not fit together."""
    if matrix.ndim != 2 or 0 in matrix.shape or not matrix.dtype.is_floating_point:
        raise OptgeomError(
            "a matrix has two dimensions, entries and a float dtype, not "
            f"shape {tuple(matrix.shape)} and {matrix.dtype}: reshape it to (neurons, inputs)"
        )
    for name in ("weight", "weight_after", "gradient"):
        other = getattr(context, name)
        if other is not None and other.shape != matrix.shape:
            raise OptgeomError(
                f"{name} has shape {tuple(other.shape)}, the matrix {tuple(matrix.shape)}: "
                "both are (neurons, inputs)"
            )
    if context.weight_after is not None and (context.weight is not None or context.lr is None):
        raise OptgeomError(
            "weight_after stands in for weight, and needs lr: "
            f"pass one of the two, and lr with weight_after, not lr={context.lr}"
        )


def is_lost(source: str | None, lost_update_fraction: float | None) -> bool:
    """Whether a difference of weights lost so many entries that it is no update."""
    lost = lost_update_fraction
    return source == "difference" and lost is not None and lost > LOST_LIMIT


def _facts(context: Context) -> dict[str, float | int | None]:
    if context.stage != "update":
        return {}
    return {
        "lost_update_fraction": context.lost_update_fraction,
        "lost_decay_fraction": context.lost_decay_fraction,
        "second_moment_steps": context.second_moment_steps,
    }


def _leading(matrix: Tensor, norms: Tensor, context: Context) -> tuple[float | Tensor, ...]:
    """The numbers that stand before the norms."""
    if context.rows_only:
        known = context.weight_norm
        return math.nan, math.nan if known is None else known, math.nan
    on_host = matrix.device.type == "cpu"
    square = float(norms[: len(matrix)].square().sum()) if on_host else math.nan
    return _companions(Reach.of(matrix, square), context)


def _after(leading: tuple[float | Tensor, ...], norms: Tensor) -> Tensor:
    if norms.is_cpu:
        numbers = np.empty(LEADING + norms.shape[0])
        numbers[:LEADING] = [float(x) for x in leading]
        numbers[LEADING:] = norms.numpy()
        return torch.from_numpy(numbers)
    # A tensor made of a Python number would wait for its copy to the device.
    first = [x if isinstance(x, Tensor) else norms.new_full((), x) for x in leading]
    return torch.cat([torch.stack(first), norms])


def _companions(reach: Reach, context: Context) -> tuple[float | Tensor, ...]:
    weight = gradient = NOTHING
    if context.stage == "update" and context.weight is not None:
        weight = reach.along(context.weight)
    elif context.stage == "update" and context.weight_after is not None and context.lr is not None:
        weight = reach.along_weight_before(context.weight_after, lr=context.lr, decay=context.decay)
    if context.gradient is not None and context.stage in GRADIENT_STAGES:
        gradient = reach.along(context.gradient)
    return weight.length, weight.norm, gradient.length
