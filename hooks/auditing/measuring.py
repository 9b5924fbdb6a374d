"""All measurements of one optimizer, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from optgeom.hooks.auditing.company import depends_on_others
from optgeom.hooks.auditing.curve import Curve, Named, measure_curve, nearest
from optgeom.hooks.auditing.decay import Decay, measure_decay
from optgeom.hooks.auditing.inputs import SQUARE, TALL, WIDE
from optgeom.hooks.auditing.memory import Momentum, measure_momentum
from optgeom.hooks.auditing.odd import (
    Odd,
    measure_odd,
    measure_scale_invariance,
    one_row,
    writes_gradient,
)
from optgeom.hooks.auditing.scale import Scale, measure_scale
from optgeom.hooks.auditing.second_moment import SecondMoment, measure_second_moment
from optgeom.hooks.auditing.structure import Model, Normalization, Structure, measure_structure
from optgeom.hooks.auditing.subject import StepFailed, Subject

T = TypeVar("T")

DEPENDS = "its updates depend on the weights, or it keeps weights of its own"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be measured: what the optimizer raised, or what was missing."""

    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, each a value or why there is none.

    Attributes:
        curve: the one of two orientations that a normalization hides least.
        names: published polynomials by their distance from it.
        tall: what first updates of tall matrices are made of.
        wide: of wide ones.
        square: of square ones.
        model: the plainest that explains both; None where there is none.
        momentum: weights of older gradients.
        scale: sizes of updates.
        second: what the normalization divides by; None where there is no normalization.
        decay: of the weights.
        invariant: whether the size of the gradient leaves the update as it is, and in words.
        row: what becomes of a matrix of one row.
        writes: whether a step overwrites the gradient.
        odd: what becomes of odd gradients.
        company: whether the update of a matrix depends on the others.
    """

    curve: Curve | Failure
    names: tuple[Named, ...]
    tall: Structure | Failure
    wide: Structure | Failure
    square: Structure | Failure
    model: Model | None
    momentum: Momentum | Failure
    scale: Scale | Failure
    second: SecondMoment | Failure | None
    decay: Decay | Failure
    invariant: tuple[bool | None, str] | Failure
    row: str | Failure
    writes: bool | Failure
    odd: Mapping[str, Odd] | Failure
    company: bool | Failure


def measure(subject: Subject) -> Measured:
    """Measure everything but ranks."""
    curve = _curve(subject)
    names = () if isinstance(curve, Failure) else nearest(curve)
    tall = _structure(subject, curve, TALL)
    wide = _structure(subject, curve, WIDE)
    model = common(tall, wide)
    momentum = _tried(lambda: measure_momentum(subject))
    return Measured(
        curve=curve,
        names=names,
        tall=tall,
        wide=wide,
        square=_structure(subject, curve, SQUARE),
        model=model,
        momentum=momentum,
        scale=_scale(subject, model, names),
        second=_second(subject, model, wide, momentum),
        decay=_tried(lambda: measure_decay(subject)),
        invariant=_tried(lambda: measure_scale_invariance(subject)),
        row=_tried(lambda: one_row(subject)),
        writes=_tried(lambda: writes_gradient(subject)),
        odd=_tried(lambda: measure_odd(subject)),
        company=_tried(lambda: depends_on_others(subject)),
    )


def common(tall: Structure | Failure, wide: Structure | Failure) -> Model | None:
    """The model of tall matrices, the plainest that has a counterpart on wide ones.

    Where the polar factor is exact, the rows of a wide one are equal by themselves: several models
    explain it, and the tall ones decide.
    """
    if isinstance(tall, Failure) or isinstance(wide, Failure):
        return None
    for model in tall.explained:
        for other in wide.explained:
            if (model.before, model.curve is None) == (other.before, other.curve is None):
                return model
    return None


def after(found: Structure, like: Model) -> Normalization | None:
    """What is normalized last on matrices of one shape.

    Args:
        found: the structure there.
        like: the model that explains tall matrices; where it explains these too, it is taken.
    """
    kinds = [
        model.after
        for model in found.explained
        if (model.before, model.curve is None) == (like.before, like.curve is None)
    ]
    if not kinds:
        return None
    return like.after if like.after in kinds else kinds[0]


def _tried(ask: Callable[[], T]) -> T | Failure:
    try:
        return ask()
    except StepFailed as error:
        return Failure(str(error))


def _curve(subject: Subject) -> Curve | Failure:
    """Of rows and of columns the curve that spreads more: a normalization flattens one of them."""
    found = [_tried(partial(measure_curve, subject, transposed=turned)) for turned in (False, True)]
    curves = [one for one in found if isinstance(one, Curve)]
    return max(curves, key=lambda one: one.spread) if curves else found[0]


def _structure(
    subject: Subject, curve: Curve | Failure, shape: tuple[int, int]
) -> Structure | Failure:
    if isinstance(curve, Failure):
        return curve
    return _tried(lambda: measure_structure(subject, curve, shape))


def _scale(subject: Subject, model: Model | None, names: tuple[Named, ...]) -> Scale | Failure:
    if model is None:
        return Failure("what the update is made of is not known")
    if not subject.resets:
        return Failure(DEPENDS)
    variant = names[0].variant
    return _tried(lambda: measure_scale(subject, model, variant))


def _second(
    subject: Subject,
    model: Model | None,
    wide: Structure | Failure,
    momentum: Momentum | Failure,
) -> SecondMoment | Failure | None:
    if model is None:
        return Failure("what the update is made of is not known")
    if not subject.resets:
        return Failure(DEPENDS)
    if model.after == "none":
        return None
    if isinstance(momentum, Failure):
        return momentum
    if model.after == "column" and (isinstance(wide, Failure) or after(wide, model) != "column"):
        return Failure("it normalizes columns of tall matrices alone")
    if momentum.decay is None or momentum.nesterov is None:
        return Failure("it is measured behind the momentum, whose rule is not known")
    decay, nesterov = momentum.decay, momentum.nesterov
    return _tried(
        lambda: measure_second_moment(
            subject,
            momentum=decay,
            nesterov=nesterov,
            orthogonalizes=model.curve is not None,
            transposed=model.after == "column",
        )
    )
