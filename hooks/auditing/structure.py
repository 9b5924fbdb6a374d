"""What a first update is made of: what is orthogonalized, and what is normalized after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from optgeom.hooks.auditing.curve import Curve, published
from optgeom.hooks.auditing.inputs import uneven, uneven_groups
from optgeom.hooks.auditing.subject import Matrix, Subject, difference

Normalization = Literal["none", "row", "column", "elementwise"]

RANK = 1e-9
REFINED = 8

FITS = 0.06
"""Relative Frobenius distance of an update from a model of it, its scale free, at which the model
is taken: bfloat16 iterations are 0.01 to 0.02 from theirs, wrong models 0.1 and more."""


def _rows(matrix: Matrix) -> Matrix:
    return matrix / _positive(np.linalg.norm(matrix, axis=1, keepdims=True))


def _columns(matrix: Matrix) -> Matrix:
    return matrix / _positive(np.linalg.norm(matrix, axis=0, keepdims=True))


def _sizes(matrix: Matrix, after: Normalization) -> Matrix | float:
    """What a normalization divides by."""
    if after == "none":
        return 1.0
    found: Matrix = np.linalg.norm(matrix, axis=1 if after == "row" else 0, keepdims=True)
    return found


_CURVES = {
    True: "orthogonalization",
    False: "a function of the singular values",
    None: "a function of the singular values",
}


def _positive(values: Matrix) -> Matrix:
    return np.where(values > 0, values, 1.0)


NORMALIZATIONS: Mapping[Normalization, Callable[[Matrix], Matrix]] = MappingProxyType(
    {"none": lambda matrix: matrix, "row": _rows, "column": _columns, "elementwise": np.sign}
)


@dataclass(frozen=True, slots=True)
class Model:
    """A hypothesis of a first update.

    Attributes:
        before: what is normalized before the orthogonalization.
        curve: what happens to singular values; None: nothing.
        after: what is normalized after it.
    """

    before: Normalization
    curve: Curve | None
    after: Normalization

    def distance(self, gradient: Matrix, update: Matrix) -> float:
        """How far an update is from what this model makes of a gradient, its scale free.

        The curve is a start: what comes out of each singular value is fitted to the update, since
        rounding shifts the steep ones sideways. Signs are compared where there is one: of entries
        that are larger than a third of their root mean square.

        Returns:
            The relative Frobenius distance.
        """
        matrix = NORMALIZATIONS[self.before](gradient)
        if self.curve is None:
            return _apart(update, NORMALIZATIONS[self.after](matrix))
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        kept = values > RANK * values[0]
        left, values, right = left[:, kept], values[kept], right[kept]
        outputs = self.curve(values / np.linalg.norm(values))
        if self.after == "elementwise":
            direction = (left * outputs) @ right
            clear = np.abs(direction) > np.sqrt(np.mean(direction**2)) / 3
            signs = np.sign(direction[clear])
            return _apart(update[clear], signs) if len(signs) else np.inf
        for _ in range(REFINED):
            direction = (left * outputs) @ right
            undone = update * _sizes(direction, self.after)
            outputs = np.einsum("ij,ij->j", left, undone @ right.T)
        return _apart(update, NORMALIZATIONS[self.after]((left * outputs) @ right))

    @property
    def words(self) -> str:
        """In the order in which it is done."""
        parts = [
            f"{self.before} normalization" if self.before != "none" else "",
            _CURVES[self.curve.orthogonalizes] if self.curve is not None else "",
            f"{self.after} normalization" if self.after != "none" else "",
        ]
        return ", then ".join(part for part in parts if part) or "the gradient as it is"


@dataclass(frozen=True, slots=True)
class Fit:
    """A model and the largest relative distance of a measured update from it."""

    model: Model
    distance: float


@dataclass(frozen=True, slots=True)
class Structure:
    """What was found on matrices of one shape.

    Attributes:
        fits: of all models: first those that explain the updates, the plainest of them first, then
            the others by their distance.
    """

    fits: tuple[Fit, ...]

    @property
    def explained(self) -> tuple[Model, ...]:
        """The models that fit, the plainest first."""
        return tuple(fit.model for fit in self.fits if fit.distance <= FITS)


def models(curve: Curve) -> list[Model]:
    """All hypotheses, the plainest first.

    The sign of an entry hides what came out of each singular value: published curves are tried.
    """
    kinds: tuple[Normalization, ...] = ("none", "row", "column", "elementwise")
    found = [Model("none", None, after) for after in kinds]
    for after in kinds:
        curves = [curve, *published(curve.inputs)] if after == "elementwise" else [curve]
        found += [Model(before, one, after) for before in kinds for one in curves]
    return sorted(found, key=lambda model: (model.curve is not None) + (model.before != "none"))


def gradients(shape: tuple[int, int]) -> list[Matrix]:
    """Matrices that tell the models apart: two of full rank, then two of low rank."""
    rows, cols = shape
    return [
        uneven(rows, cols, seed=2),
        uneven(rows, cols, seed=3),
        uneven_groups(rows, cols, seed=4),
        uneven_groups(cols, rows, seed=5).T,
    ]


def measure_structure(subject: Subject, curve: Curve, shape: tuple[int, int]) -> Structure:
    """Compare first updates with all models.

    Where no model explains all of them, those of full rank alone count, if one explains these: an
    SVD fills up the directions that a matrix of low rank lacks, at random.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    given = gradients(shape)
    found = [subject.update(gradient) for gradient in given]
    every = _fits(models(curve), given, found)
    full = every if every[0].distance <= FITS else _fits(models(curve), given[:2], found[:2])
    return Structure(full if full[0].distance <= FITS else every)


def _fits(
    tried: Sequence[Model], given: Sequence[Matrix], found: Sequence[Matrix]
) -> tuple[Fit, ...]:
    fits = [
        Fit(
            model,
            max(model.distance(one, update) for one, update in zip(given, found, strict=True)),
        )
        for model in tried
    ]
    # sorting is stable: what fits stays in the order of the models
    return tuple(sorted(fits, key=lambda fit: 0.0 if fit.distance <= FITS else fit.distance))


def _apart(found: Matrix, wanted: Matrix) -> float:
    """The relative distance from the nearest multiple."""
    size = float((wanted**2).sum())
    return difference(float((wanted * found).sum()) / size * wanted, found) if size else np.inf
