"""How far a metric may lie from its formula: numbers that the tests and the page both read.

Bounds are of what measuring adds. The entries are taken as they are stored: rounding them to
float32 or bfloat16 before is no error of the measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Follows = Literal["smallest", "sum", "largest", "vectors"]

_BELOW = {"gram": 1.5e-7, "svd": 10 * 2.0**-52}
"""Over s_1: the noise floor of each method, and how large a value below it may come out; that of
the SVD for sides up to 100, and in proportion to longer ones."""

_GRAM, _SVD, _FLOAT32 = 2e-15, 5e-16, 2e-5


def singular_value_error(kappa: float, method: str, side: int = 1) -> float:
    """How far the singular value s_1/kappa may be off, over s_1.

    Args:
        kappa: s_1 over the singular value; inf where that is not above the noise floor.
        method: As spectrum_method: gram, svd or gram32.
        side: The longer one of the matrix.
    """
    if method == "gram32":
        return _FLOAT32 / kappa
    if math.isinf(kappa):
        return _BELOW[method] * (max(1.0, side / 100) if method == "svd" else 1.0)
    return _SVD if method == "svd" else _GRAM * kappa


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """A distance: a share of the value, and what does not shrink with it."""

    relative: float = 0.0
    absolute: float = 0.0

    def __str__(self) -> str:
        parts = {"relative": self.relative, "absolute": self.absolute}
        return " and ".join(f"{kind} {_said(size)}" for kind, size in parts.items() if size)


_NONE = Error()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Bound of a metric's distance from the exact value.

    Attributes:
        single: Part that is always there, for matrices of float32 and narrower.
        double: The same for float64.
        products: What float32 products (spectrum_method gram32) add.
        follows: Which error of the singular values comes on top: "smallest", the relative one of
            the smallest that the metric depends on; "sum", those of all of them over s_1;
            "largest", the largest of them as it is; "vectors", kappa^2 times an absolute one. None:
            none of them.
        weight: How many times that.
        sketch: Of cosines from sketches, in flight: the largest standard error, over 1 - c^2.
        counts: What is counted, where the metric is exact but for what lies close to a limit: then
            `bound` is the error, at the limit, of what is compared with it.
        note: What else is to say.
    """

    single: Error = _NONE
    double: Error = _NONE
    products: Error = _NONE
    follows: Follows | None = None
    weight: float = 1.0
    sketch: float = 0.0
    counts: str = ""
    note: str = ""

    def bound(
        self,
        value: float,
        *,
        double: bool,
        method: str = "gram",
        kappa: float = 1.0,
        count: int = 1,
        largest: float = 1.0,
        side: int = 1,
        sketched: bool = False,
    ) -> float:
        """How far a value may be from the exact one.

        Args:
            value: The metric; of a count, the limit.
            double: Whether the matrix is float64, whatever it is compared with.
            method: spectrum_method of the row; of the gradient for descent_efficiency.
            kappa: s_1 over the smallest singular value that the metric depends on, inf where that
                is not above the noise floor: 1 for a condition number that is a lower bound, the
                smallest that is kept for the leverage, the lower quartile for q75_q25, and the
                gradient's for descent_efficiency.
            count: r, how many singular values there are.
            largest: s_1, for what is in the units of the singular values.
            side: The longer one of the matrix.
            sketched: Whether a cosine comes from sketches: five standard errors are allowed.

        Returns:
            Absolute distance, at least a few units in the value's last place.
        """
        size = abs(value)
        parts = [self.double if double else self.single]
        if method == "gram32":
            parts.append(self.products)
        parts.append(self._following(method, kappa, count, largest, side))
        if sketched:
            parts.append(Error(absolute=5.0 * self.sketch * (1.0 - size * size)))
        allowed = sum(part.relative * size + part.absolute for part in parts)
        return max(allowed, 8.0 * math.ulp(size))

    def _following(self, method: str, kappa: float, count: int, largest: float, side: int) -> Error:
        if self.follows == "vectors":
            # they come from the float64 Gram matrix, whatever the singular values came from
            return Error(absolute=self.weight * kappa * singular_value_error(kappa, "gram"))
        if self.follows is None or method == "gram32":
            return _NONE
        error = self.weight * singular_value_error(kappa, method, side)
        if self.follows == "smallest":
            return Error(relative=kappa * error)
        if self.follows == "sum":
            return Error(relative=min(count, kappa) * error)
        return Error(absolute=largest * error)

    def __str__(self) -> str:
        """In words, for the page."""
        parts = [self._always(), self._following_in_words()]
        if self.sketch:
            parts.append(f"from sketches standard error at most {_said(self.sketch)} (1 - c^2)")
        error = ", ".join(part for part in parts if part)
        if self.products != _NONE:
            error += f" (float32 products: {self.products} more)"
        if self.counts:
            error = f"exact, but for {self.counts} within {error} of the limit"
        return "; ".join(part for part in (error or "exact", self.note) if part)

    def _always(self) -> str:
        if self.single == self.double:
            return str(self.single)
        return f"{self.single} (float64: {self.double})"

    def _following_in_words(self) -> str:
        weight = "" if self.weight == 1.0 else f"{_said(self.weight)} "
        gram, svd = _said(self.weight * _GRAM), _said(self.weight * _SVD)
        return {
            None: "",
            "smallest": f"and relative {gram} kappa^2 by the Gram matrix, {svd} kappa by the SVD",
            "sum": f"and relative {weight}min(r, kappa) times the error of s_r over s_1",
            "largest": "its error" if self.counts else f"and {weight}the error of s_r",
            "vectors": f"and absolute {gram} kappa^2",
        }[self.follows]


def _said(size: float) -> str:
    return f"{size:.3g}".replace("e-0", "e-")


SINGULAR_VALUES = f"""\
A singular value s_i is off by at most

- `gram`: {_said(_GRAM)} s_1^2/s_i, which is {_said(_GRAM * 1e6)} of itself at s_1/s_i = 1e3 and
  {_said(_GRAM * 1e12)} of itself at 1e6; a tenth of that where sides are a few hundred long;
- `svd`: {_said(_SVD)} s_1;
- `gram32`: {_said(_FLOAT32)} s_i.

Where it is not above the noise floor it may come out anywhere up to the floor of the method, which
is {_said(_BELOW["gram"])} s_1 for `gram`, and for `svd` {_said(_BELOW["svd"])} s_1, or side/100
times that where the longer side is above 100.
"""
