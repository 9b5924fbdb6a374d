"""A matrix against the weight and the gradient of its step: lengths along them, and theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from optgeom.geometry.overlaps import is_safe, overlap, product

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


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """A matrix that lengths along others are wanted of.

    Attributes:
        matrix: A, (m, n), any float dtype.
        square: |A|^2, or NaN.
        in_float32: Whether products in float32 are to be trusted: on the CPU, away from the ends of
            float32's range.
    """

    matrix: Tensor
    square: float
    in_float32: bool

    @classmethod
    def of(cls, matrix: Tensor, square: float) -> Reach:
        """Prepare a matrix.

        Args:
            matrix: A, (m, n), any float dtype and device.
            square: |A|^2, or NaN where it is not known: then everything goes the long way.
        """
        fast = matrix.device.type == "cpu" and matrix.dtype != torch.float64 and is_safe(square)
        return cls(matrix, square, fast)

    def along(self, other: Tensor) -> Along:
        """Length along another matrix.

        Two reads of the other and one of the matrix, more where one of them is near the ends of
        float32's range; never waits for a device.

        Args:
            other: B, (m, n), any float dtype; moved to A's device.

        Returns:
            Length with absolute error 1e-6 |A|, norm with relative error 4e-7, where both fit
            float32; 1e-14 where one is float64.
        """
        if self.in_float32 and other.dtype != torch.float64:
            other = other.detach().cpu()
            square = product(other, other)
            if is_safe(square):
                norm = math.sqrt(square)
                return Along(product(self.matrix, other) / norm, norm)
        found = overlap(self.matrix, other)
        return _told(found.cosine * found.first_norm, found.second_norm)

    def along_weight_before(self, weight_after: Tensor, *, lr: float, decay: float) -> Along:
        """Length along the weight before the step, from the weight after it; of an update u.

        W_before = (W_after + lr u) / (1 - decay) is not made. Its products follow from W_after's:

            <u, W_before> = (<u, W_after> + lr |u|^2) / (1 - decay)
            |W_before|^2 = (|W_after|^2 + 2 lr <u, W_after> + lr^2 |u|^2) / (1 - decay)^2

        With c = (|W_after| + |lr u|) / |W_after + lr u| the products' relative error e comes out as
        c e in the cosine and c^2 e / 2 in the norm. Up to c = 2 that keeps the errors of `along`;
        beyond, and on other devices than the CPU, the weight is rebuilt, whose rounding comes out
        as c 1e-7. From c = 1e6 on nothing is known.

        W_after as it is stored differs from the W_after of the formula by its own rounding:
        relative 2^-24 in float32, 2^-9 in bfloat16, 2^-12 in float16. Norm and cosine differ by c
        times that at most.

        Args:
            weight_after: W after the step, (m, n), any float dtype; moved to u's device.
            lr: Divisor of the update.
            decay: 1 - W's factor of the step.

        Returns:
            Of u along W_before; NaN where decay = 1, or where W_before is not resolved.
        """
        keep = 1.0 - decay
        if keep == 0.0:
            return NOTHING
        if self.in_float32 and weight_after.dtype != torch.float64:
            after = weight_after.detach().cpu()
            uw, ww = product(self.matrix, after), product(after, after)
            if is_safe(ww):
                reach = math.sqrt(ww) + abs(lr) * math.sqrt(self.square)
                rest = ww + 2.0 * lr * uw + lr * lr * self.square
                if rest * LARGEST_STEP**2 > reach * reach:
                    size = math.copysign(math.sqrt(rest), keep)
                    return Along((uw + lr * self.square) / size, size / keep)
        return self._by_rebuilding(weight_after.to(self.matrix.device), lr, keep)

    def _by_rebuilding(self, after: Tensor, lr: float, keep: float) -> Along:
        wide = torch.float64 in (self.matrix.dtype, after.dtype)
        dtype = torch.float64 if wide else torch.float32
        before = torch.add(after.to(dtype), self.matrix.to(dtype), alpha=lr) / keep
        found = overlap(self.matrix, before)
        size = overlap(after, after).first_norm + abs(lr) * found.first_norm
        resolved = found.second_norm * abs(keep) > UNRESOLVED * size
        nothing = torch.full_like(size, math.nan)
        length = torch.where(resolved, found.cosine * found.first_norm, nothing)
        norm = torch.where(resolved, found.second_norm, nothing)
        return _told(length, norm)


def _told(length: Tensor, norm: Tensor) -> Along:
    if length.device.type == "cpu":
        return Along(float(length), float(norm))
    return Along(length, norm)
