"""How much older gradients weigh: the momentum, its form, Nesterov's look-ahead.

Every direction of `scaled` is fed its own sequence of amplitudes. The response of a direction has
the sign of the weighted sum of what it was fed, whatever is done to its size afterwards, so the
amplitude at which the sign turns is a ratio of two weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from optgeom.hooks.auditing.inputs import SIDE, responses, scaled
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject

Form = Literal["ema", "heavy_ball", "none", "unknown"]

LEAST, MOST = 1e-3, 1e3
STAGES = 4
LENGTH = 7
CLEAR = 0.02
"""Weighted sums below this share of the largest are too near to zero for a sign."""

AGREES = 0.02
"""Relative difference of two weights that count as the same: bfloat16 buffers round by 0.4 %."""


@dataclass(frozen=True, slots=True)
class Momentum:
    """What the weights of older gradients say.

    Attributes:
        newest: weight of the gradient before the newest, over that of the newest.
        older: weight of each gradient over that of the next one, further back.
        decay: the momentum coefficient; None where the weights follow no known rule, or do not
            predict the updates of another sequence.
        nesterov: whether the newest gradient is mixed in once more; None as `decay`.
        form: what the buffer holds; "unknown" where neither the update nor the state shows it.
    """

    newest: float
    older: float
    decay: float | None
    nesterov: bool | None
    form: Form


def measure_momentum(subject: Subject, *, transposed: bool = False) -> Momentum:
    """Find the weights of the last three gradients.

    Raises:
        StepFailed: a step failed.
    """
    newest = _ratio(subject, after=0, transposed=transposed)
    older = _ratio(subject, after=1, transposed=transposed)
    decay, nesterov = _rule(newest, older)
    if not _predicts(subject, newest, older, transposed=transposed):
        decay = nesterov = None
    form: Form = "none" if decay == 0.0 else _form(subject, decay)
    return Momentum(newest, older, decay, nesterov, form)


def _rule(newest: float, older: float) -> tuple[float | None, bool | None]:
    if newest < LEAST and older < LEAST:
        return 0.0, False
    if not 0.0 < older < 1.0:
        return None, None
    if abs(newest / older - 1.0) < AGREES:
        return older, False
    # b*M + (1-b)*G with M = b*M' + (1-b)*G: the newest weighs 1 - b^2, the one before b^2 (1-b)
    ahead = older**2 / (1.0 + older)
    if abs(newest / ahead - 1.0) < AGREES:
        return older, True
    return None, None


def _predicts(subject: Subject, newest: float, older: float, *, transposed: bool) -> bool:
    """Whether the weights tell the signs of the responses to gradients of random amplitudes."""
    amplitudes = np.random.default_rng(18).standard_normal((LENGTH, SIDE))
    sequence = [row[:, None] * scaled(np.ones(SIDE)) for row in amplitudes]
    update = subject.updates([one.T for one in sequence] if transposed else sequence)[-1]
    found = responses(update.T if transposed else update)
    back = np.arange(LENGTH - 1)[::-1]
    weights = np.append(newest * np.power(older, back, where=back > 0, out=np.ones(len(back))), 1.0)
    wanted = weights @ amplitudes
    clear = np.abs(wanted) > CLEAR * np.abs(wanted).max()
    return bool((np.sign(found[clear]) == np.sign(wanted[clear])).all())


def _ratio(subject: Subject, *, after: int, transposed: bool) -> float:
    """The weight of a gradient over that of the next one, with `after` zero gradients behind it.

    Returns:
        0 where the older one has no weight that could be seen.
    """
    low, high = LEAST, MOST
    amplitudes = np.geomspace(low, high, SIDE - 1)
    for _ in range(STAGES):
        found = _signs(subject, amplitudes, after=after, transposed=transposed)
        if not np.isfinite(found).all():
            raise StepFailed("the update is not finite after a sequence of gradients")
        if not found.any():
            if after:  # nothing but the newest gradient counts, and that was zero
                return 0.0
            raise StepFailed("its first two steps move nothing")
        positive = np.flatnonzero(found > 0)
        if not len(positive):
            return 0.0
        last = int(positive[-1])
        if last == len(amplitudes) - 1:
            return float("inf")
        low, high = float(amplitudes[last]), float(amplitudes[last + 1])
        amplitudes = np.linspace(low, high, SIDE - 1)
    return (low + high) / 2


def _signs(subject: Subject, amplitudes: Matrix, *, after: int, transposed: bool) -> Matrix:
    """Responses to a gradient of one, then one of minus the amplitude; a first step goes before."""
    idle, busy = np.zeros(SIDE), np.append(np.ones(SIDE - 1), 0.0)
    idle[-1] = 1.0
    # not through `scaled`, which would round the amplitudes
    against = -np.append(amplitudes, 0.0)[:, None] * scaled(np.ones(SIDE))
    sequence = [scaled(idle), scaled(busy), against]
    sequence += [np.zeros((SIDE, SIDE))] * after
    if transposed:
        sequence = [matrix.T for matrix in sequence]
    update = subject.updates(sequence)[-1]
    return responses(update.T if transposed else update)[:-1]


def _form(subject: Subject, decay: float | None) -> Form:
    """What a buffer holds after a first gradient, or what a first update shows."""
    gradient = scaled(np.linspace(1.0, 2.0, SIDE))
    trial = subject.trial(np.zeros_like(gradient))
    trial.step(gradient)
    for kept in trial.state().values():
        if kept.shape != trial.parameter.shape or decay is None:
            continue
        share = _multiple(kept.double().numpy(), gradient)
        if share is not None and abs(share - 1.0) < AGREES:
            return "heavy_ball"
        if share is not None and abs(share / (1.0 - decay) - 1.0) < AGREES:
            return "ema"
    return "unknown"


def _multiple(found: Matrix, of: Matrix) -> float | None:
    """The factor between two matrices; None where they are no multiples."""
    share = float((found * of).sum() / (of**2).sum())
    rest = float(np.linalg.norm(found - share * of))
    return share if rest < AGREES * float(np.linalg.norm(found)) else None
