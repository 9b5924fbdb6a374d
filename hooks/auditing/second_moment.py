"""How fast a normalization forgets: the decay of the second moment that it divides by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from optgeom.hooks.auditing.inputs import SHORT, SIDE, grouped
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject

STEPS, CHECKS = 24, 15
STARTS = (0.5, 0.9, 0.99, 0.999)
FOREVER, SUM = 1.0 - 1e-7, 1.0 - 1e-5
"""Decays above SUM cannot be told from a sum over so many steps."""

FITS = 0.01
"""Root mean square of the logarithm of what is left, at which a decay is taken: right ones leave
1e-6, 0.002 where entries are normalized; a maximum instead of a mean leaves 0.05."""


@dataclass(frozen=True, slots=True)
class SecondMoment:
    """What a second moment does.

    Attributes:
        decay: of the running mean of squares; 0 where only the newest counts, 1 where none is ever
            forgotten; None where no decay explains the updates.
        of: "input" or "gradient": whose squares are averaged, those of what is divided or those of
            the raw gradient.
        distance: root mean square of the logarithm of measured over predicted sizes, the best.
        nearest: the decay there.
    """

    decay: float | None
    of: str
    distance: float
    nearest: float


def measure_second_moment(
    subject: Subject,
    *,
    momentum: float,
    nesterov: bool,
    orthogonalizes: bool,
    transposed: bool,
) -> SecondMoment:
    """Let some rows move much in one step and little in all later ones.

    The gradients are chosen so that what enters the normalization is known in spite of the
    momentum. How fast those rows recover tells the decay; then a sequence in another order has to
    come out as it predicts.

    Args:
        subject: an optimizer that normalizes rows, columns or entries.
        momentum: its coefficient.
        nesterov: whether the newest gradient is mixed in once more.
        orthogonalizes: whether it orthogonalizes before it normalizes.
        transposed: whether it normalizes columns.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    mixed = [True, *(np.random.default_rng(19).random(CHECKS) < 0.5)]
    first, check = ([_UNEVEN if one else _EVEN for one in order] for order in (_FIRST, mixed))

    def run(profiles: list[Matrix]) -> tuple[list[Matrix], list[Matrix], list[Matrix]]:
        targets = [grouped(profile, SHORT) for profile in profiles]
        given = list(_driven(targets, momentum=momentum, nesterov=nesterov))
        updates = subject.updates([one.T for one in given] if transposed else given)
        sizes = [_norms(one.T if transposed else one) for one in updates]
        if not np.isfinite(sizes).all() or not np.all(sizes):
            raise StepFailed("the update is zero or not finite after a sequence of gradients")
        entering = [_norms(one) for one in targets]
        if orthogonalizes:
            entering = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in entering]
        return sizes, entering, [_norms(one) for one in given]

    sizes, entering, raw = run(first)
    found = []
    for of, squared in (("input", entering), ("gradient", raw)):
        found.append((*_fitted(sizes, entering, squared), of))
    distance, decay, weight, of = min(found)
    sizes, entering, raw = run(check)
    squared = _weighed(entering if of == "input" else raw, mixed, weight)
    distance = max(distance, _mean(_left(sizes, entering, squared, decay)))
    decay = 1.0 if decay > SUM else decay
    return SecondMoment(decay if distance < FITS else None, of, distance, decay)


GROUPS, ROWS = SHORT, SIDE // SHORT
# Rows are powers of two of each other, and groups are alike, so that whatever an iteration rounds
# it rounds alike: ratios of rows stay exact.
_UNEVEN = np.tile([16.0, 1.0, 1.0, 1.0], (GROUPS, 1))
_EVEN = np.full((GROUPS, ROWS), 8.0)
_FIRST = [True] + [False] * (STEPS - 1)


def _driven(targets: list[Matrix], *, momentum: float, nesterov: bool) -> Iterator[Matrix]:
    """Gradients after which momentum, and look-ahead, are a multiple of the targets."""
    buffer = np.zeros_like(targets[0])
    for target in targets:
        if nesterov:  # b*M + G with M = b*M' + G
            gradient = (target - momentum**2 * buffer) / (1.0 + momentum)
        else:
            gradient = target - momentum * buffer
        buffer = momentum * buffer + gradient
        yield gradient


def _norms(matrix: Matrix) -> Matrix:
    """Row norms by group, (GROUPS, ROWS)."""
    found: Matrix = np.linalg.norm(matrix, axis=1).reshape(GROUPS, ROWS)
    return found


def _fitted(
    sizes: list[Matrix], entering: list[Matrix], squared: list[Matrix]
) -> tuple[float, float, float]:
    """What explains the sizes of rows best: what it leaves unexplained, the decay, and a weight.

    The weight is of the squares of uneven matrices: their orthogonalization may be of another size
    than that of even ones.
    """

    def explained(at: Matrix) -> Matrix:
        return _left(sizes, entering, _weighed(squared, _FIRST, float(at[1])), float(at[0]))

    bounds = ([0.0, 0.8], [FOREVER, 1.25])
    fits = [least_squares(explained, [one, 1.0], bounds=bounds, xtol=1e-12) for one in STARTS]
    best = min(fits, key=lambda fit: float(fit.cost))
    none, found = _left(sizes, entering, squared, 0.0), explained(best.x)
    if np.linalg.norm(none) <= np.linalg.norm(found):
        return _mean(none), 0.0, 1.0
    return _mean(found), float(best.x[0]), float(best.x[1])


def _weighed(squared: list[Matrix], uneven: Sequence[bool], weight: float) -> list[Matrix]:
    return [one * np.sqrt(weight if w else 1.0) for one, w in zip(squared, uneven, strict=True)]


def _left(
    sizes: list[Matrix], entering: list[Matrix], squared: list[Matrix], decay: float
) -> Matrix:
    """What a decay leaves unexplained of the ratios of rows in a group, by the logarithm."""
    second = np.zeros_like(entering[0])
    rest = []
    for size, row, square in zip(sizes, entering, squared, strict=True):
        second = decay * second + (1.0 - decay) * square**2
        wanted = row / np.sqrt(second)
        ratio = np.log(size / size[:, -1:]) - np.log(wanted / wanted[:, -1:])
        rest.append(ratio[:, :-1])
    return np.concatenate(rest, axis=None)


def _mean(rest: Matrix) -> float:
    return float(np.sqrt(np.mean(rest**2)))
