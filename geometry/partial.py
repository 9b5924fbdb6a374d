"""What measuring must read matrices for: a few small tensors, without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.catalogue import METRICS
from optgeom.geometry.companions import NOTHING, Along, Reach
from optgeom.geometry.context import Context
from optgeom.geometry.norms import line_norms
from optgeom.geometry.rounding import LOST_LIMIT
from optgeom.geometry.scaling import reachable
from optgeom.geometry.sketch import sketch
from optgeom.traces.errors import OptgeomError

LEADING = 3
"""How many numbers stand before the norms of the lines in `Partial.numbers`."""

_GRADIENT_STAGES = frozenset(METRICS["cosine_gradient"].stages)


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
            where there is none, and then the norms of the rows and of the columns.
        sketch: (4096,) on the matrix's device, of an update; else None.
        previous_sketch: Of the context.
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


def norms_pass(
    matrix: Tensor, context: Context | None = None, *, scratch: Tensor | None = None
) -> Partial:
    """Read a matrix, and those of its context, for a row of the norms clock.

    The first half of `measure_norms`: afterwards the matrices may be dropped or written to. Never
    waits for a device; on a CPU it looks at values to choose the fast way.

    Cost: about three reads of the matrix, one more for an update's sketch, and two reads of each
    matrix in the context together with the matrix; meant for the training thread.

    Args:
        matrix: (m, n), m, n >= 1, any float dtype and device, rows = neurons; left as it is.
        context: What else is known.
        scratch: (k,) float32 on the matrix's device, overwritten; spares new memory for matrices of
            up to k entries. Worth passing where many matrices follow each other: fresh memory costs
            more than reading it.

    Returns:
        For `finish_norms`.

    Raises:
        OptgeomError: if the matrix, or one in the context, has the wrong shape or dtype.
    """
    context = context or Context()
    check(matrix, context)
    matrix = reachable(matrix.detach())
    # Products do not see in which order entries come: a stored transpose is read as it lies.
    turned = not matrix.is_contiguous() and matrix.mT.is_contiguous()
    lying = matrix.mT if turned else matrix.contiguous()
    norms = line_norms(lying, scratch)
    is_update = context.stage == "update" and not context.norms_only
    has_gradient = context.gradient is not None and context.stage in _GRADIENT_STAGES
    weight = gradient = NOTHING
    if is_update or (has_gradient and not context.norms_only):
        reach = Reach.of(lying, _square(norms, lying.shape[0]))
        if is_update:
            weight = _along_weight(reach, context, turned=turned)
        if context.gradient is not None:
            gradient = reach.along(context.gradient.mT if turned else context.gradient)
    if turned:
        norms = norms.roll(matrix.shape[0])
    return Partial(
        shape=(matrix.shape[0], matrix.shape[1]),
        stage=context.stage,
        status=context.status,
        lost=is_lost(context),
        facts=_facts(context),
        lr=context.lr,
        steps_since_previous=context.steps_since_previous,
        numbers=_together((weight.length, weight.norm, gradient.length), norms),
        sketch=sketch(matrix, scratch) if is_update else None,
        previous_sketch=context.previous_sketch if is_update else None,
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


def is_lost(context: Context) -> bool:
    """Whether a difference of weights lost so many entries that it is no update."""
    lost = context.lost_update_fraction
    return context.source == "difference" and lost is not None and lost > LOST_LIMIT


def _facts(context: Context) -> dict[str, float | int | None]:
    if context.stage != "update":
        return {}
    return {
        "lost_update_fraction": context.lost_update_fraction,
        "lost_decay_fraction": context.lost_decay_fraction,
        "second_moment_steps": context.second_moment_steps,
    }


def _square(norms: Tensor, rows: int) -> float:
    """Squared Frobenius norm; NaN where the device would have to be waited for."""
    if norms.device.type != "cpu":
        return math.nan
    of_rows = norms.numpy()[:rows]
    return float(np.vdot(of_rows, of_rows))


def _along_weight(reach: Reach, context: Context, *, turned: bool) -> Along:
    weight, after = context.weight, context.weight_after
    if weight is not None:
        return reach.along(weight.mT if turned else weight)
    if after is not None and context.lr is not None:
        after = after.mT if turned else after
        return reach.along_weight_before(after, lr=context.lr, decay=context.decay)
    return NOTHING


def _together(leading: tuple[float | Tensor, ...], norms: Tensor) -> Tensor:
    if norms.device.type == "cpu":
        return torch.from_numpy(np.concatenate([leading, norms.numpy()]))
    # A tensor made of a Python number would wait for its copy to the device.
    first = [x if isinstance(x, Tensor) else norms.new_full((), x) for x in leading]
    return torch.cat([torch.stack(first), norms])
