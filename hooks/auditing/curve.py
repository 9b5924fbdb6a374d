"""Which singular value comes out for which goes in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgeom.hooks.auditing.inputs import SIDE, narrow, responses, scaled
from optgeom.hooks.auditing.polynomials import Variant, variants
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject

LEAST, DECADES = 1e-4, 4
TOPS = (0.55, 0.8, 0.97)
BAND_FROM = 0.01
"""Singular values from this share of the Frobenius norm on are what the band is about."""

FLAT, LINEAR = 4.0, 25.0
"""Largest over smallest output from BAND_FROM on: below FLAT it is orthogonalized (five steps of
the flattest published set stay below 2), above LINEAR it is not (the input itself spans 50)."""

SAME, APART = 0.035, 1.25
"""A measured curve is a published one from this relative distance on, root mean square, if the next
one is this much farther: in bfloat16 the steepest set, Polar Express, is 0.026 from itself."""

ALIKE = 0.002
"""Distances that are no different: two polynomials that both have converged."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A measured curve.

    Attributes:
        inputs: (k,) ascending, singular values over the Frobenius norm of their matrix.
        outputs: (k,) what came out, of arbitrary scale: 1 is the root mean square from BAND_FROM.
        spread: largest over smallest output from BAND_FROM on.
    """

    inputs: Matrix
    outputs: Matrix
    spread: float

    def __call__(self, values: Matrix) -> Matrix:
        """What comes out, by interpolation; 0 for 0."""
        found = np.interp(np.log(np.maximum(values, 1e-300)), np.log(self.inputs), self.outputs)
        # below what was measured it is a line through zero
        low = values < self.inputs[0]
        found[low] = self.outputs[0] * values[low] / self.inputs[0]
        return found

    @property
    def orthogonalizes(self) -> bool | None:
        """Whether unequal values come out nearly equal; None where it is something between."""
        if self.spread <= FLAT:
            return True
        return False if self.spread >= LINEAR else None


def measure_curve(subject: Subject, *, transposed: bool) -> Curve:
    """Feed matrices of known singular values and read what comes out of each.

    Args:
        subject: the optimizer.
        transposed: put one direction into each column instead of each row. A division of the rows
            by their norms hides the curve of the one, a division of the columns that of the other.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    inputs: list[Matrix] = []
    outputs: list[Matrix] = []
    for values in spectra():
        given = scaled(values)
        update = subject.update(given.T if transposed else given)
        found = responses(update.T if transposed else update)
        if not found.any():
            raise StepFailed("the update has nothing of the directions of its gradient")
        inputs.append(np.abs(narrow(values)) / np.linalg.norm(given))
        outputs.append(
            found * _level(inputs[-1], found, inputs[0], outputs[0] if outputs else found)
        )
    x, y = np.concatenate(inputs), np.concatenate(outputs)
    order = np.argsort(x)
    x, y = x[order], y[order]
    inside = y[x >= BAND_FROM]
    y = y / (float(np.sqrt(np.mean(inside**2))) or 1.0)
    low, high = float(inside.min()), float(inside.max())
    return Curve(x, y, high / low if low > 0 else np.inf)


def spectra() -> list[Matrix]:
    """(SIDE,) singular values each: an even spread, and three with one that dominates."""
    even = LEAST * 10.0 ** np.linspace(0, DECADES, SIDE)
    found = [even]
    for top in TOPS:
        rest = LEAST * 10.0 ** np.linspace(0, DECADES - 1, SIDE - 1)
        rest *= np.sqrt(1 - top**2) / np.linalg.norm(rest)
        found.append(np.append(rest, top))
    return found


def published(inputs: Matrix) -> list[Curve]:
    """The two sets of coefficients that most trainings use, as if they had been measured."""
    common = [
        one for one in variants() if one.steps == 5 and one.name in ("jordan", "polar_express")
    ]
    return [Curve(inputs, one(inputs), 1.0) for one in common]


def _level(inputs: Matrix, outputs: Matrix, known: Matrix, wanted: Matrix) -> float:
    """What brings a gradient's outputs onto those of the first: a rescale gives each its size."""
    shared = (inputs >= known[0]) & (inputs <= known[-1])
    there = np.interp(np.log(inputs[shared]), np.log(known), wanted)
    size = float(outputs[shared] @ outputs[shared])
    return float(there @ outputs[shared]) / size if size else 1.0


@dataclass(frozen=True, slots=True)
class Named:
    """A published polynomial and how far the measured curve is from it.

    Attributes:
        variant: the polynomial.
        distance: relative, root mean square over the measured points, the scale free; in bfloat16
            or exactly, whichever is nearer.
    """

    variant: Variant
    distance: float


def nearest(curve: Curve) -> tuple[Named, ...]:
    """Published polynomials by their distance from a curve, the nearest first.

    Of those that cannot be told apart, the one with the fewest steps.
    """
    found = []
    for one in variants():
        images = (one(curve.inputs), one.rounded(curve.inputs))
        found.append(Named(one, min(_distance(curve.outputs, image) for image in images)))
    return tuple(sorted(found, key=lambda one: (round(one.distance / ALIKE), one.variant.steps)))


def named(candidates: tuple[Named, ...]) -> Variant | None:
    """The polynomial that a curve is; None where none is near, or two are."""
    best, *others = candidates
    if best.distance > SAME:
        return None
    rival = min(one.distance for one in others if one.variant.name != best.variant.name)
    # once they have converged all are the polar factor, and the one with the fewest steps is it
    is_exact = best.variant.name == "exact"
    return best.variant if is_exact or rival > APART * best.distance else None


def _distance(found: Matrix, wanted: Matrix) -> float:
    scale = float(wanted @ found) / float(wanted @ wanted)
    return float(np.linalg.norm(found - scale * wanted) / np.linalg.norm(found))
