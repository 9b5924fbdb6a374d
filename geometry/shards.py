"""A matrix whose rows lie in several places: what each place reads, and what that makes together.

Every metric of the norms clock follows from numbers that add up over rows, and from the rows' own
norms. Whoever holds some rows reads them; the numbers of all places give the same `Partial` as
`norms_pass` of the whole matrix, without the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optgeom.geometry.companions import UNRESOLVED
from optgeom.geometry.context import Context
from optgeom.geometry.floor import units_in_last_place
from optgeom.geometry.norms import blind_line_norms, line_norms, row_norms
from optgeom.geometry.overlaps import overlap
from optgeom.geometry.partial import GRADIENT_STAGES, Partial, partial_of
from optgeom.geometry.sketch import SKETCH_SIZE, sketch_of_rows

SUMS = 6
"""How many numbers add up: <A, W>, |W|^2, |W_after|^2, <A, G>, |G|^2, ulp(W_after)^2."""


def shard_size(rows: int, cols: int, context: Context) -> int:
    """How many numbers `read_shard` gives."""
    return SUMS + rows + (0 if context.rows_only else cols + _sketched(context) * SKETCH_SIZE)


def read_shard(part: Tensor, context: Context, *, row_start: int, rows: int) -> Tensor:
    """Read some rows of a matrix for a row of the norms clock.

    Never waits for a device.

    Args:
        part: (r, n), any float dtype and device, r may be 0; left as it is.
        context: What else is known, its matrices the same rows, and `weight_norm` theirs.
        row_start: The place of the first one in the whole matrix.
        rows: m, of the whole matrix.

    Returns:
        (`shard_size`,) float64 on the matrix's device.
    """
    part = part.detach()
    numbers = part.new_zeros(shard_size(part.shape[0], part.shape[1], context), dtype=torch.float64)
    if not len(part):
        return numbers
    _add_up(numbers, part, context)
    if context.rows_only:
        numbers[SUMS:] = row_norms(part)
        return numbers
    lines = line_norms(part) if part.device.type == "cpu" else blind_line_norms(part)
    numbers[SUMS : SUMS + len(lines)] = lines
    if _sketched(context):
        numbers[SUMS + len(lines) :] = sketch_of_rows(part, row_start=row_start, rows=rows)
    return numbers


def joined(
    shards: Sequence[tuple[Tensor, int]], cols: int, context: Context
) -> tuple[Partial, Tensor]:
    """What all rows say together.

    Args:
        shards: In the order of their rows: what `read_shard` gave, and of how many rows.
        cols: n.
        context: As it was for the shards, without their matrices.

    Returns:
        As `norms_pass` gives it for the whole matrix; and the mean square of the weights' units in
        the last place, () float64, for `difference_floor`, zero where the matrix is no difference.
    """
    sums = torch.stack([numbers[:SUMS] for numbers, _ in shards]).sum(0)
    norms = torch.cat([numbers[SUMS : SUMS + rows] for numbers, rows in shards])
    rows, sketch = len(norms), None
    square = norms.square().sum()
    if not context.rows_only:
        columns = torch.stack([n[SUMS + r : SUMS + r + cols] for n, r in shards])
        norms = torch.cat([norms, columns.square().sum(0).sqrt()])
        if _sketched(context):
            sketch = torch.stack([n[SUMS + r + cols :] for n, r in shards]).sum(0)
            sketch = sketch.to(torch.float32)
    along_weight, weight, after, along_gradient, gradient, ulps = sums.unbind()
    reach = after.sqrt() + abs(context.lr or 0.0) * square.sqrt()
    known = (after == 0) | (weight.sqrt() * abs(1.0 - context.decay) > UNRESOLVED * reach)
    nan = torch.full_like(weight, torch.nan)
    leading = [
        nan if context.rows_only else torch.where(known, along_weight / weight.sqrt(), nan),
        torch.where(known & (context.stage == "update"), weight.sqrt(), nan),
        along_gradient / gradient.sqrt(),
    ]
    numbers = torch.cat([torch.stack(leading), norms])
    return partial_of((rows, cols), context, numbers, sketch), ulps / (rows * cols)


def _sketched(context: Context) -> bool:
    return context.stage == "update" and not context.rows_only


def _add_up(numbers: Tensor, part: Tensor, context: Context) -> None:
    if context.source == "difference" and context.weight_after is not None:
        numbers[5] = units_in_last_place(context.weight_after).square().sum()
    if context.rows_only:
        if context.weight_norm is not None:
            numbers[1] = context.weight_norm**2
        return
    if context.stage == "update":
        weight, after = context.weight, context.weight_after
        if weight is None and after is not None and context.lr is not None:
            wide = torch.float64 in (part.dtype, after.dtype)
            dtype = torch.float64 if wide else torch.float32
            weight = torch.add(after.to(dtype), part.to(dtype), alpha=context.lr)
            weight /= 1.0 - context.decay
            numbers[2] = overlap(after, after).first_norm.square()
        if weight is not None:
            numbers[0], numbers[1] = _product(part, weight)
    if context.gradient is not None and context.stage in GRADIENT_STAGES:
        numbers[3], numbers[4] = _product(part, context.gradient)


def _product(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """<A, B> and |B|^2, float64; a zero matrix has the product 0 with all that is finite."""
    found = overlap(first, second)
    sizes = found.first_norm * found.second_norm
    product = torch.where(sizes == 0, sizes, found.cosine * sizes)
    return product, found.second_norm.square()
