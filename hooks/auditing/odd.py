"""What an optimizer does with gradients that are zero, missing, tiny, huge or oddly stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from optgeom.hooks.auditing.inputs import uneven
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject, difference

SIDES = (32, 16)
TINY, HUGE = 2.0**-66, 2.0**66
"""Their squares leave the range of float32. Powers of two: every rounding stays as it was."""

SMALLER, LARGER = 2.0**-10, 2.0**10

SAME, ROUNDED = 1e-3, 0.05
"""Relative distances: the same but for the order of sums; the same but for bfloat16."""

VANISHED = 1e-3


@dataclass(frozen=True, slots=True)
class Odd:
    """What became of one odd gradient.

    Attributes:
        words: in a few words.
        is_broken: the weights are not finite any more, or moved where nothing should.
    """

    words: str
    is_broken: bool = False


def measure_odd(subject: Subject) -> Mapping[str, Odd]:
    """Feed each, to an optimizer of its own."""
    gradient = uneven(*SIDES, seed=13)
    usual = subject.update(gradient)
    found = {
        "zero": _tried(lambda: _idle(subject, np.zeros(SIDES), gradient)),
        "missing": _tried(lambda: _idle(subject, None, gradient)),
        "tiny": _tried(lambda: _scaled(subject, gradient, TINY, usual)),
        "huge": _tried(lambda: _scaled(subject, gradient, HUGE, usual)),
    }
    if subject.way != "sparse":
        found["non_contiguous"] = _tried(lambda: _turned(subject, gradient, usual))
    if subject.is_single:
        found["bfloat16"] = _tried(lambda: _narrow(subject, gradient, usual))
    return found


def measure_scale_invariance(subject: Subject) -> tuple[bool | None, str]:
    """Whether the size of the gradient leaves the update as it is, and what was measured.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    gradient = uneven(*SIDES, seed=14)
    usual = subject.update(gradient)
    ratios = []
    for times in (SMALLER, LARGER):
        update = subject.update(times * gradient)
        ratios.append(float(np.linalg.norm(update) / np.linalg.norm(usual)))
        if _angle(update, usual) > ROUNDED:
            return None, f"a gradient {times:.4g} times as large turns the update"
    smaller, larger = ratios
    words = f"a gradient {LARGER:.0f} times as large makes the update {larger:.4g} times as large"
    if all(abs(ratio - 1.0) < ROUNDED for ratio in ratios):
        return True, words
    if abs(smaller / SMALLER - 1.0) < ROUNDED and abs(larger / LARGER - 1.0) < ROUNDED:
        return False, words
    return None, f"{words}, one {LARGER:.0f} times smaller {smaller:.3g} times"


def one_row(subject: Subject) -> str:
    """What becomes of a matrix of one row, such as a gate: "kept", "signs" or "other".

    Divided by the norms of its columns, each entry is left with its sign alone.

    Raises:
        StepFailed: a step failed, or moved nothing.
    """
    gradient = uneven(1, 64, seed=17)
    update = subject.update(gradient)
    if _angle(update, gradient) < ROUNDED:
        return "kept"
    return "signs" if _angle(update, np.sign(gradient)) < ROUNDED else "other"


def writes_gradient(subject: Subject) -> bool:
    """Whether a step overwrites the gradient that it was given, in any of the first two.

    Raises:
        StepFailed: a step failed.
    """
    trial = subject.trial(np.zeros(SIDES))
    for seed in (15, 16):
        given = torch.from_numpy(uneven(*SIDES, seed=seed)).to(trial.start.dtype)
        held = given.to_sparse() if subject.way == "sparse" else given.clone()
        trial.step(held)
        if not torch.equal(held.to_dense(), given):
            return True
    return False


def _tried(ask: Callable[[], Odd]) -> Odd:
    try:
        return ask()
    except StepFailed as error:
        return Odd(f"raises {error}")


def _idle(subject: Subject, odd: Matrix | None, gradient: Matrix) -> Odd:
    """A first step without a direction, then a usual one."""
    trial = subject.trial(np.zeros(SIDES))
    update = trial.step(odd)
    if not np.isfinite(update).all():
        return Odd("NaN in the weights", is_broken=True)
    if update.any():
        return Odd("moves the weights", is_broken=True)
    after = trial.step(gradient)
    if not np.isfinite(after).all():
        return Odd("no update, but NaN at the next step", is_broken=True)
    return Odd("no update")


def _scaled(subject: Subject, gradient: Matrix, times: float, usual: Matrix) -> Odd:
    update = subject.trial(np.zeros(SIDES)).step(times * gradient)
    if not np.isfinite(update).all():
        return Odd("NaN in the weights", is_broken=True)
    if not update.any():
        return Odd("no update")
    ratio = float(np.linalg.norm(update) / np.linalg.norm(usual))
    if abs(ratio / times - 1.0) < ROUNDED and _angle(update, usual) < ROUNDED:
        return Odd("the update scales with it")
    if ratio < VANISHED:
        return Odd(f"next to no update, {ratio:.1g} of the usual one")
    if _angle(update, usual) > ROUNDED:
        return Odd(f"another direction, {ratio:.2g} times as large")
    if abs(ratio - 1.0) < ROUNDED:
        return Odd("the usual update")
    return Odd(f"the usual direction, {ratio:.2g} times as large")


def _turned(subject: Subject, gradient: Matrix, usual: Matrix) -> Odd:
    trial = subject.trial(np.zeros(SIDES))
    turned = torch.from_numpy(np.ascontiguousarray(gradient.T)).to(trial.start.dtype).T
    update = trial.step(turned)
    apart = difference(update, usual) if update.any() else 0.0
    if apart < SAME:
        return Odd("the usual update")
    return Odd(f"another update, {apart:.2g} away", is_broken=apart > ROUNDED)


def _narrow(subject: Subject, gradient: Matrix, usual: Matrix) -> Odd:
    update = subject.in_dtype(torch.bfloat16).update(gradient)
    apart = difference(update, usual)
    if apart < ROUNDED:
        return Odd("the usual update, to its rounding")
    return Odd(f"another update, {apart:.2g} away", is_broken=not np.isfinite(apart))


def _angle(one: Matrix, other: Matrix) -> float:
    """The distance of two directions."""
    sizes = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    return difference(one / sizes[0], other / sizes[1]) if all(sizes) else float("inf")
