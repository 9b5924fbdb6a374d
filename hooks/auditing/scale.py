"""How large an update is: the rescale after a normalization, and the factor of the shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from optgeom.hooks.auditing.inputs import SHORT, SIDE, SQUARE, TALL, WIDE, uneven, uneven_groups
from optgeom.hooks.auditing.polynomials import Variant
from optgeom.hooks.auditing.structure import NORMALIZATIONS, RANK, Model
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject

Factor = Callable[[int, int], float]

SHAPES = (TALL, WIDE, SQUARE, (SIDE, 2 * SHORT), (2 * SHORT, SIDE))

CONSTANT, EQUAL = 0.08, 0.05
"""Relative spread of a ratio that counts as constant, and its distance from one that counts as one:
Polar Express in bfloat16 leaves 0.05 from gradient to gradient; factors differ by 1.4 and more."""

FACTORS: Mapping[str, Factor] = MappingProxyType(
    {
        "none": lambda m, n: 1.0,
        # github.com/KellerJordan/Muon
        "original": lambda m, n: math.sqrt(max(1.0, m / n)),
        # Moonlight, arXiv:2502.16982
        "match_rms": lambda m, n: 0.2 * math.sqrt(max(m, n)),
        # arXiv:2310.17813
        "spectral": lambda m, n: math.sqrt(m / n),
    }
)
"""Factors of an (m, n) update that is orthogonal."""

FORMULAS: Mapping[str, str] = MappingProxyType(
    {
        "none": "1",
        "original": "sqrt(max(1, m/n))",
        "match_rms": "0.2*sqrt(max(m, n))",
        "spectral": "sqrt(m/n)",
    }
)


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of the updates.

    Attributes:
        rescale: "none", "rms", "norm_before"; None where it is none of them.
        rms: root mean square of an update, where that is the same for every gradient and shape.
        shape_factor: a name of `FACTORS`; None where it is none of them.
        words: what was measured of the rescale.
        factor_words: what was measured of the shape factor.
        wrong: a factor that is a known one applied twice, or upside down; "" otherwise.
    """

    rescale: str | None
    rms: float | None
    shape_factor: str | None
    words: str
    factor_words: str
    wrong: str = ""


def measure_scale(subject: Subject, model: Model, variant: Variant) -> Scale:
    """Compare the size of first updates with that of what was orthogonalized.

    Args:
        subject: the optimizer.
        model: what its updates are made of. Where nothing is orthogonalized, the update is compared
            with the gradient.
        variant: the polynomial that it uses, or the nearest.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    normalizes = model.after != "none"
    sizes: dict[tuple[int, int], list[float]] = {}
    rms: list[float] = []
    for shape in SHAPES:
        for gradient in _gradients(shape):
            size = float(np.linalg.norm(subject.update(gradient)))
            sizes.setdefault(shape, []).append(size / _size(gradient, model, variant))
            rms.append(size / math.sqrt(math.prod(shape)))
    if normalizes and _spread(rms) < CONSTANT:
        level = float(np.mean(rms))
        if _changes(subject, orthogonalizes=model.curve is not None) < CONSTANT:
            words = f"every update has a root mean square of {level:.3g}, of every shape"
            return Scale("rms", level, "none", words, words)
        words = (
            f"a first update has a root mean square of {level:.3g} whatever the gradient, later "
            "ones another: the size that the division leaves is kept"
        )
        return Scale("none", None, "none", words, "the same size for every shape")
    if any(_spread(ratios) > CONSTANT for ratios in sizes.values()):
        worst = max(sizes, key=lambda shape: _spread(sizes[shape]))
        low, high = min(sizes[worst]), max(sizes[worst])
        words = (
            f"of {_named(worst)} the update is {low:.3g} to {high:.3g} times as large as what was "
            "orthogonalized, by the gradient"
        )
        return Scale(None, None, None, words, words)
    means = {shape: float(np.mean(one)) for shape, one in sizes.items()}
    if model.curve is None:  # the share of a first gradient is the momentum's
        level = means[SQUARE]
        means = {shape: one / level for shape, one in means.items()}
    factor, wrong, factor_words = _factor(means)
    words = (
        "what is normalized keeps its Frobenius norm, but for the factor of the shape"
        if normalizes
        else (
            "nothing is normalized that would be rescaled"
            if model.curve is not None
            else "the update is as large as the gradient makes it"
        )
    )
    return Scale("norm_before" if normalizes else "none", None, factor, words, factor_words, wrong)


def _gradients(shape: tuple[int, int]) -> list[Matrix]:
    rows, cols = shape
    found = [uneven(rows, cols, seed=6), uneven(rows, cols, seed=7)]
    if SHORT in shape or rows == cols:
        found.append(uneven_groups(rows, cols, seed=8))
    return found


def _size(gradient: Matrix, model: Model, variant: Variant) -> float:
    """The Frobenius norm of what enters the normalization."""
    if model.curve is None:
        return float(np.linalg.norm(gradient))
    values = np.linalg.svd(NORMALIZATIONS[model.before](gradient), compute_uv=False)
    values = values[values > RANK * values[0]]
    return float(np.linalg.norm(variant(values / np.linalg.norm(values))))


def _changes(subject: Subject, *, orthogonalizes: bool) -> float:
    """How much the size of an update depends on the steps before, relative.

    What is orthogonalized is of one size but for its rank; ten matrices of full rank go before one
    of low rank, so large that the momentum is forgotten. Otherwise ten small gradients follow ten
    large ones.
    """
    rows, cols = TALL
    full, low = uneven(rows, cols, seed=9), uneven_groups(rows, cols, seed=10)
    low *= 1e4 * np.linalg.norm(full) / np.linalg.norm(low)
    after = [low] if orthogonalizes else [1e-3 * full] * 10
    sizes = [float(np.linalg.norm(one)) for one in subject.updates([full] * 10 + after)]
    if not all(np.isfinite(sizes)) or not all(sizes):
        raise StepFailed("the update is zero or not finite within ten steps")
    return max(abs(size / sizes[0] - 1.0) for size in sizes)


def _factor(found: Mapping[tuple[int, int], float]) -> tuple[str | None, str, str]:
    """The name of a factor, what is wrong with it, and what was measured."""
    shapes = f"on {len(found)} shapes"
    for name, factor in FACTORS.items():
        if _constant(found, factor) == 1.0:
            return name, "", f"the size is multiplied by {FORMULAS[name]}, {shapes}"
    for name, factor in FACTORS.items():
        for wrong, power in (("applied twice", 2.0), ("upside down", -1.0)):
            if name != "none" and _constant(found, factor, power) == 1.0:
                said = f"{name}, {FORMULAS[name]}, {wrong}"
                return None, said, f"{said}, {shapes}"
    for name, factor in FACTORS.items():
        times = _constant(found, factor)
        if times is not None:
            return None, "", f"the size is multiplied by {times:.3g} * {FORMULAS[name]}, {shapes}"
    return None, "", ", ".join(f"{one:.3g} of {_named(shape)}" for shape, one in found.items())


def _constant(
    found: Mapping[tuple[int, int], float], factor: Factor, power: float = 1.0
) -> float | None:
    """What is left when a factor is divided out, if it is the same for all shapes; 1 is exact."""
    ratios = [one / factor(*shape) ** power for shape, one in found.items()]
    if _spread(ratios) > CONSTANT:
        return None
    level = float(np.mean(ratios))
    return 1.0 if abs(level - 1.0) < EQUAL else level


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / float(np.mean(values))


def _named(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
