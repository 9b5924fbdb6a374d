"""A matrix against the weight and the gradient of its step: lengths along them, and theirs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.overlaps import common_dtype, is_safe, overlap, product

LARGEST_STEP = 2.0
"""Up to this ratio of |W_after| + |lr u| to |W_after + lr u|, products give the latter's norm."""

UNRESOLVED = 1e-6
"""Below this ratio of the same, W_before is what rounding left of a sum, and nothing is known."""


class Along(NamedTuple):
    """How far A reaches along B; floats for matrices on the CPU, else () float64 on their device.

    Attributes:
        length: <A, B> / |B|, between -|A| and |A|; NaN where B is zero or one is not finite.
        norm: |B|, NaN where it is not known.
    """

    length: float | Tensor
    norm: float | Tensor


NOTHING = Along(math.nan, math.nan)


def along(matrix: Tensor, norms: Tensor, other: Tensor) -> Along:
    """Length of a matrix along another.

    Two reads of the other and one of the matrix, more where one of them is near the ends of
    float32's range; no host synchronization.

    Args:
        matrix: A, (m, n), any float dtype.
        norms: As `line_norms` returned them for it.
        other: B, (m, n), any float dtype; moved to A's device.

    Returns:
        Length with absolute error 1e-6 |A|, norm with relative error 4e-7, where both fit float32;
        1e-14 where one is float64.
    """
    other = other.detach().to(matrix.device)
    if matrix.device.type == "cpu" and is_safe(_square(matrix, norms)):
        ab, bb = product(matrix, other), product(other, other)
        if ab is not None and bb is not None and is_safe(bb):
            size = math.sqrt(bb)
            return Along(ab / size, size)
    return _by_scaling(matrix, other)


def along_weight_before(
    update: Tensor, norms: Tensor, weight_after: Tensor, *, lr: float, decay: float
) -> Along:
    """Length of an update along the weight before the step, from the weight after it.

    W_before = (W_after + lr u) / (1 - decay) is not made. Its products follow from W_after's:

        <u, W_before> = (<u, W_after> + lr |u|^2) / (1 - decay)
        |W_before|^2 = (|W_after|^2 + 2 lr <u, W_after> + lr^2 |u|^2) / (1 - decay)^2

    With c = (|W_after| + |lr u|) / |W_after + lr u| the products' relative error e comes out as
    c e in the cosine and c^2 e / 2 in the norm. Up to c = 2 that keeps the errors of `along`;
    beyond, and on other devices than the CPU, the weight is rebuilt, whose rounding comes out as
    c 1e-7. From c = 1e6 on nothing is known.

    W_after as it is stored differs from the W_after of the formula by its own rounding: relative
    2^-24 in float32, 2^-9 in bfloat16, 2^-12 in float16. Norm and cosine differ by c times that at
    most; in bfloat16 by about 1e-6 unless rounding held the update itself back.

    Args:
        update: u, (m, n), any float dtype.
        norms: As `line_norms` returned them for it.
        weight_after: W after the step, (m, n), any float dtype; moved to u's device.
        lr: Divisor of the update.
        decay: 1 - W's factor of the step.

    Returns:
        Of u along W_before; NaN where decay = 1, or where W_before is not resolved.
    """
    keep = 1.0 - decay
    if keep == 0.0:
        return NOTHING
    after = weight_after.detach().to(update.device)
    if update.device.type == "cpu":
        uu = _square(update, norms)
        uw, ww = product(update, after), product(after, after)
        if is_safe(uu) and uw is not None and ww is not None and is_safe(ww):
            reach = math.sqrt(ww) + abs(lr) * math.sqrt(uu)
            rest = ww + 2.0 * lr * uw + lr * lr * uu
            if rest * LARGEST_STEP**2 > reach * reach and is_safe(rest):
                size = math.copysign(math.sqrt(rest), keep)
                return Along((uw + lr * uu) / size, size / keep)
    return _by_rebuilding(update, after, lr, keep)


def _by_rebuilding(update: Tensor, after: Tensor, lr: float, keep: float) -> Along:
    dtype = common_dtype(update, after)
    before = torch.add(after.to(dtype), update.to(dtype), alpha=lr) / keep
    found = overlap(update, before)
    size = overlap(after, after).first_norm + abs(lr) * found.first_norm
    resolved = found.second_norm * abs(keep) > UNRESOLVED * size
    nothing = torch.full_like(size, math.nan)
    length = torch.where(resolved, found.cosine * found.first_norm, nothing)
    norm = torch.where(resolved, found.second_norm, nothing)
    return _told(length, norm)


def _by_scaling(matrix: Tensor, other: Tensor) -> Along:
    found = overlap(matrix, other)
    return _told(found.cosine * found.first_norm, found.second_norm)


def _told(length: Tensor, norm: Tensor) -> Along:
    if length.device.type == "cpu":
        return Along(float(length), float(norm))
    return Along(length, norm)


def _square(matrix: Tensor, norms: Tensor) -> float:
    rows = norms[: matrix.shape[0]].numpy()
    return float(np.vdot(rows, rows))
