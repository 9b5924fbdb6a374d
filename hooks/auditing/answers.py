"""From measurements to answers: a name where one is earned, else `unknown` and what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from optgeom.hooks.auditing.curve import BAND_FROM, named
from optgeom.hooks.auditing.measuring import Failure, Measured, after
from optgeom.hooks.auditing.memory import AGREES, LATE
from optgeom.hooks.auditing.ranks import Ranks
from optgeom.hooks.auditing.report import UNKNOWN, Answer
from optgeom.hooks.auditing.structure import FITS, Model, Structure

T = TypeVar("T")

AXES: Mapping[tuple[str, str], str] = {
    ("row", "row"): "rows",
    ("column", "column"): "columns",
    ("row", "column"): "larger",
    ("none", "none"): "none",
    ("elementwise", "elementwise"): "none",
}
"""The axis of neurons by what is normalized on tall and on wide matrices."""


def answers(measured: Measured, ranks: Ranks | Failure) -> dict[str, Answer]:
    """All answers, in the order of a reader's questions."""
    return {
        **_orthogonalization(measured),
        **_normalization(measured),
        **_scale(measured),
        **_momentum(measured),
        "second_moment_decay": _second(measured),
        **_decay(measured),
        "scale_invariant": _found(
            measured.invariant, lambda one: Answer(_or_unknown(one[0]), one[1])
        ),
        "writes_gradient": _found(
            measured.writes,
            lambda writes: Answer(
                writes, f"p.grad is {'another' if writes else 'the same'} after the step"
            ),
        ),
        "rank_invariant": _found(
            ranks,
            lambda one: Answer(
                _or_unknown(one.agree), "; ".join(_short(*case) for case in one.cases.items())
            ),
        ),
    }


def _found(value: T | Failure, say: Callable[[T], Answer]) -> Answer:
    return Answer(UNKNOWN, value.why) if isinstance(value, Failure) else say(value)


def _short(name: str, said: str) -> str:
    """A case of two ranks without the text of an error."""
    return f"{name}: {'raises' if said.startswith('raises') else said}"


def _or_unknown(value: Any) -> Any:
    return UNKNOWN if value is None else value


_OUTPUTS = ("polynomial", "ns_steps", "singular_value_band")
"""What is asked of the singular values that come out."""


def _orthogonalization(measured: Measured) -> dict[str, Answer]:
    curve, model = measured.curve, measured.model
    if isinstance(curve, Failure) or model is None:
        why = curve.why if isinstance(curve, Failure) else _nearest(measured.tall)
        return dict.fromkeys(("orthogonalizes", *_OUTPUTS), Answer(UNKNOWN, why))
    spread = (
        f"singular values that span a factor of {1 / BAND_FROM:.0f} come out within "
        f"{curve.spread:.3g}"
    )
    if model.curve is None or curve.orthogonalizes is False:
        no = dict.fromkeys(_OUTPUTS, Answer(None, "it does not orthogonalize"))
        said = model.words if model.curve is None else spread
        return {"orthogonalizes": Answer(False, said), **no}
    if model.after == "elementwise":
        why = "what comes out of a singular value is hidden by signs of entries"
        hidden = dict.fromkeys(_OUTPUTS, Answer(UNKNOWN, why))
        return {"orthogonalizes": Answer(True, model.words), **hidden}
    best, variant = measured.names[0], named(measured.names)
    steps = f", {best.variant.steps} steps" if best.variant.steps else ""
    distance = f"{best.distance:.2g} away from {best.variant.name}{steps}"
    inside = curve.outputs[curve.inputs >= BAND_FROM]
    if variant is not None:
        wanted = variant(curve.inputs)
        inside = inside * float((wanted @ wanted) / (wanted @ curve.outputs))
    band = [round(float(inside.min()), 3), round(float(inside.max()), 3)]
    unit = "" if variant is not None else ", root mean square 1"
    return {
        "orthogonalizes": Answer(_or_unknown(curve.orthogonalizes), spread),
        "polynomial": Answer(UNKNOWN if variant is None else variant.name, distance),
        "ns_steps": Answer(UNKNOWN if variant is None else variant.steps or None, distance),
        "singular_value_band": Answer(
            band, f"of singular values above {BAND_FROM} of the norm{unit}", tolerance=0.05
        ),
    }


def _nearest(found: Structure | Failure) -> str:
    if isinstance(found, Failure):
        return found.why
    best = found.fits[0]
    if best.distance <= FITS:
        return f"{best.model.words} explains tall matrices, not wide ones"
    return f"nearest is {best.model.words}, {best.distance:.2g} away"


def _normalization(measured: Measured) -> dict[str, Answer]:
    model = measured.model
    if model is None or isinstance(measured.tall, Failure) or isinstance(measured.wide, Failure):
        unknown = Answer(UNKNOWN, _nearest(measured.tall))
        return {"normalization": unknown, "neuron_axis": unknown}
    if model.before != "none":
        unknown = Answer(UNKNOWN, model.words)
        return {"normalization": unknown, "neuron_axis": unknown}
    tall, wide = after(measured.tall, model), after(measured.wide, model)
    said = f"{tall} on tall matrices, {wide} on wide ones"
    axis = AXES.get((str(tall), str(wide)), UNKNOWN)
    square = None if isinstance(measured.square, Failure) else after(measured.square, model)
    if square not in (tall, wide):
        axis, said = UNKNOWN, f"{said}, {square or 'another rule'} on square ones"
    return {
        "normalization": Answer(tall, said if tall != wide else model.words),
        "neuron_axis": Answer(
            axis, said if tall != wide or axis == UNKNOWN else "the same on all shapes"
        ),
    }


def _scale(measured: Measured) -> dict[str, Answer]:
    scale = measured.scale
    if isinstance(scale, Failure):
        return dict.fromkeys(("rescale", "rms", "shape_factor"), Answer(UNKNOWN, scale.why))
    return {
        "rescale": Answer(_or_unknown(scale.rescale), scale.words),
        "rms": Answer(
            None if scale.rms is None else _digits(scale.rms, 3),
            scale.words if scale.rms is not None else "not the same for every gradient and shape",
            0.02,
        ),
        "shape_factor": Answer(_or_unknown(scale.shape_factor), scale.factor_words),
    }


def _momentum(measured: Measured) -> dict[str, Answer]:
    found = measured.momentum
    names = ("momentum", "momentum_form", "nesterov")
    if isinstance(found, Failure):
        return dict.fromkeys(names, Answer(UNKNOWN, found.why))
    older = f"further back, each weighs {found.older:.4g} of the next"
    if abs(found.late - found.older) > AGREES * found.older:
        older += f", and {found.late:.4g} after {LATE} steps"
    ahead = f"the gradient before the newest weighs {found.newest:.4g} of it"
    if found.nesterov:
        ahead += ": momentum^2 / (1 + momentum)"
    forms = {
        "ema": "the state after gradients G and H is (1 - momentum) * (momentum * G + H)",
        "heavy_ball": "the state after gradients G and H is momentum * G + H",
        "none": "only the newest gradient counts",
        "unknown": "no state shows it",
    }
    return {
        "momentum": Answer(
            UNKNOWN if found.decay is None else _digits(found.decay, 4),
            f"{ahead}; {older}" if found.decay is None else older,
            0.002,
        ),
        "momentum_form": Answer(found.form, forms[found.form]),
        "nesterov": Answer(_or_unknown(found.nesterov), ahead),
    }


def _second(measured: Measured) -> Answer:
    found = measured.second
    if found is None:
        return Answer(None, "it does not normalize")
    if isinstance(found, Failure):
        return Answer(UNKNOWN, found.why)
    orthogonalizes = measured.model is not None and measured.model.curve is not None
    entering = "the orthogonalized momentum" if orthogonalizes else "the momentum"
    of = entering if found.of == "input" else "the gradient"
    if found.decay is None:
        return Answer(
            UNKNOWN, f"{found.nearest:.4g} is nearest, and leaves {found.distance:.2g} unexplained"
        )
    words = {
        0.0: f"it divides by the size of {of} itself, nothing is kept",
        1.0: f"squares of {of} are added up and never forgotten",
    }
    said = words.get(found.decay, f"a running mean of squares of {of}")
    return Answer(_digits(found.decay, 4), said, 0.001)


def _decay(measured: Measured) -> dict[str, Answer]:
    found = measured.decay
    if isinstance(found, Failure):
        return dict.fromkeys(("weight_decay", "decay_form"), Answer(UNKNOWN, found.why))
    value = UNKNOWN if found.form == "unknown" else _digits(found.coefficient, 3)
    words = found.words
    if found.form == "decoupled" and _is_linear(measured):
        words += "; without momentum, in the gradient would be the same"
    return {
        "weight_decay": Answer(value, words, 0.02),
        "decay_form": Answer(found.form, words),
    }


def _is_linear(measured: Measured) -> bool:
    model, momentum = measured.model, measured.momentum
    plain = Model("none", None, "none")
    return model == plain and not isinstance(momentum, Failure) and momentum.decay == 0.0


def _digits(value: float | None, count: int) -> float | None:
    return None if value is None else float(f"{value:.{count}g}")
