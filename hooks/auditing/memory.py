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
from optgeom.hooks.auditing.subject import Matrix, StepFailed, Subject, difference

Form = Literal["ema", "heavy_ball", "none", "unknown"]

LEAST, MOST = 1e-3, 1e3
STAGES = 4
LATE = 40
"""Steps after which the momentum has to be what it was: some are warmed up."""

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
        late: the same after `LATE` further steps.
        decay: the momentum coefficient; None where the weights follow no known rule, or do not
            predict the updates of another sequence.
        nesterov: whether the newest gradient is mixed in once more; None as `decay`.
        form: what the buffer holds; "unknown" where neither the update nor the state shows it.
    """

    newest: float
    older: float
    late: float
    decay: float | None
    nesterov: bool | None
    form: Form


def measure_momentum(subject: Subject) -> Momentum:
    """Find the weights of the last three gradients.

    Raises:
        StepFailed: a step failed.
    """
    newest, older = _ratio(subject), _ratio(subject, after=1)
    late = _ratio(subject, after=1, before=LATE)
    decay, nesterov = _rule(newest, older)
    if abs(late - older) > AGREES * older or not _predicts(subject, newest, older):
        decay = nesterov = None
    form: Form = "none" if decay == 0.0 else _form(subject, decay)
    return Momentum(newest, older, late, decay, nesterov, form)


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


def _predicts(subject: Subject, newest: float, older: float) -> bool:
    """Whether the weights tell the signs of the responses to gradients of random amplitudes."""
    amplitudes = np.random.default_rng(18).standard_normal((LENGTH, SIDE))
    sequence = [row[:, None] * scaled(np.ones(SIDE)) for row in amplitudes]
    found = responses(subject.updates(sequence)[-1])
    back = np.arange(LENGTH - 1)[::-1]
    weights = np.append(newest * np.power(older, back, where=back > 0, out=np.ones(len(back))), 1.0)
    wanted = weights @ amplitudes
    clear = np.abs(wanted) > CLEAR * np.abs(wanted).max()
    return bool((np.sign(found[clear]) == np.sign(wanted[clear])).all())


def _ratio(subject: Subject, *, after: int = 0, before: int = 1) -> float:
    """The weight of a gradient over that of the next one.

    Args:
        subject: the optimizer.
        after: zero gradients behind the two.
        before: steps before them.

    Returns:
        0 where the older one has no weight that could be seen.
    """
    low, high = LEAST, MOST
    amplitudes = np.geomspace(low, high, SIDE - 1)
    for _ in range(STAGES):
        found = _signs(subject, amplitudes, after=after, before=before)
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


def _signs(subject: Subject, amplitudes: Matrix, *, after: int, before: int) -> Matrix:
    """Responses to a gradient of one, then one of minus the amplitude, in each direction."""
    idle, busy = np.zeros(SIDE), np.append(np.ones(SIDE - 1), 0.0)
    idle[-1] = 1.0
    # not through `scaled`, which would round the amplitudes
    against = -np.append(amplitudes, 0.0)[:, None] * scaled(np.ones(SIDE))
    sequence = [*[scaled(idle)] * before, scaled(busy), against]
    sequence += [np.zeros((SIDE, SIDE))] * after
    return responses(subject.updates(sequence)[-1])[:-1]


def _form(subject: Subject, decay: float | None) -> Form:
    """What a buffer holds after two gradients."""
    if decay is None:
        return "unknown"
    first, second = scaled(np.linspace(1.0, 2.0, SIDE)), scaled(np.linspace(2.0, 0.5, SIDE))
    trial = subject.trial(np.zeros_like(first))
    trial.steps([first, second])
    sums = decay * first + second
    for kept in trial.state().values():
        if kept.shape != trial.parameter.shape:
            continue
        held = kept.double().numpy()
        if difference(held, sums) < AGREES:
            return "heavy_ball"
        if difference(held, (1.0 - decay) * sums) < AGREES:
            return "ema"
    return "unknown"
