"""How fast a normalization forgets: the decay of the second moment that it divides by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from optgeom.hooks.auditing.inputs import SHORT, SIDE, grouped
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject

STEPS = 24
STARTS = (0.5, 0.9, 0.99, 0.999)
FOREVER, SUM = 1.0 - 1e-7, 1.0 - 1e-4
"""Decays above SUM cannot be told from a sum over so many steps."""

FITS = 0.04
"""Root mean square of the logarithm of what is left, at which a decay is taken."""


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
    momentum. How fast those rows recover tells the decay.

    Args:
        subject: an optimizer that normalizes rows, columns or entries.
        momentum: its coefficient.
        nesterov: whether the newest gradient is mixed in once more.
        orthogonalizes: whether it orthogonalizes before it normalizes.
        transposed: whether it normalizes columns.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    targets = [grouped(profile, SHORT) for profile in [_UNEVEN, *[_EVEN] * (STEPS - 1)]]
    given = list(_driven(targets, momentum=momentum, nesterov=nesterov))
    updates = subject.updates([one.T for one in given] if transposed else given)
    sizes = [_norms(one.T if transposed else one) for one in updates]
    if not np.isfinite(sizes).all() or not np.all(sizes):
        raise StepFailed("the update is zero or not finite after a sequence of gradients")
    entering = [_norms(one) for one in targets]
    if orthogonalizes:
        entering = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in entering]
    found = []
    for of in ("input", "gradient"):
        squared = [_norms(one) for one in given] if of == "gradient" else entering

        decay, distance = _fitted(sizes, entering, squared)
        found.append((distance, of, decay))
    distance, of, decay = min(found)
    decay = 1.0 if decay > SUM else decay
    return SecondMoment(decay if distance < FITS else None, of, distance, decay)


GROUPS, ROWS = SHORT, SIDE // SHORT
# (a, b, c) with a^2 + 3 b^2 = 4 c^2: the rows (a, b, b, b) and (c, c, c, c) have one norm, in
# integers that bfloat16 has. Several, so that what an iteration rounds of each averages out; times
# powers of two, so that they are of about one size.
_TRIPLES = np.array(
    [
        (92, 28, 52),
        (104, 24, 56),
        (118, 22, 62),
        (83, 13, 43),
        (74, 10, 38),
        (143, 17, 73),
        (179, 19, 91),
        (73, 7, 37),
    ],
    np.float64,
)
_UNEVEN = np.repeat(_TRIPLES[:, [0, 1, 1, 1]], GROUPS // len(_TRIPLES), axis=0)
_EVEN = np.repeat(_TRIPLES[:, [2, 2, 2, 2]], GROUPS // len(_TRIPLES), axis=0)


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
) -> tuple[float, float]:
    """The decay that explains the sizes of rows best, and what it leaves unexplained.

    The first step's squares may count a little more or less than the others: the orthogonalization
    of its matrix is another one.
    """

    def left(decay: float, first: float) -> Matrix:
        second = np.zeros_like(entering[0])
        rest = []
        for step, (size, row, square) in enumerate(zip(sizes, entering, squared, strict=True)):
            weight = first if step == 0 else 1.0
            second = decay * second + (1.0 - decay) * weight * square**2
            wanted = row / np.sqrt(second)
            ratio = np.log(size / size[:, -1:]) - np.log(wanted / wanted[:, -1:])
            rest.append(ratio[:, :-1])
        return np.concatenate(rest, axis=None)

    def explained(at: Matrix) -> Matrix:
        return left(float(at[0]), float(at[1]))

    bounds = ((0.0, 0.9), (FOREVER, 1.1))
    fits = [least_squares(explained, (start, 1.0), bounds=bounds, xtol=1e-12) for start in STARTS]
    best = min(fits, key=lambda fit: float(fit.cost))
    none, found = left(0.0, 1.0), left(*best.x)
    if np.linalg.norm(none) <= np.linalg.norm(found):
        return 0.0, _mean(none)
    return float(best.x[0]), _mean(found)


def _mean(rest: Matrix) -> float:
    return float(np.sqrt(np.mean(rest**2)))
