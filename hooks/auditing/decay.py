"""What is done to the weights besides the update: weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from optgeom.hooks.auditing.inputs import uneven
from optgeom.hooks.auditing.subject import Matrix, Subject, difference

DecayForm = Literal["none", "decoupled", "in_gradient", "cautious", "unknown"]

SIDES = (32, 32)
AGREES = 0.02
"""Relative distance of two decays that count as the same."""

STEPS = 3
RESOLVED = 1e-3
"""A smaller lr * weight_decay is scaled up to this, since float32 weights would hide it."""


@dataclass(frozen=True, slots=True)
class Decay:
    """How weights shrink.

    Attributes:
        form: "decoupled" W is multiplied; "in_gradient" it is added to the gradient, and goes
            through the rule; "cautious" decoupled, where update and weight have one sign.
        coefficient: 1 - a in W_after = a * W_before + ..., in the unit of the setting: over lr, or
            as it is where it does not follow lr.
        setting: the group's `weight_decay`; None where it has none.
        by: "lr * weight_decay", "weight_decay", or "" where it is neither.
        words: what was measured.
    """

    form: DecayForm
    coefficient: float
    setting: float | None
    by: str
    words: str

    def over(self, times: float) -> Decay:
        """The same where the setting had been multiplied."""
        if times == 1.0 or self.setting is None:
            return self
        return replace(
            self,
            coefficient=self.coefficient / times,
            setting=self.setting / times,
            words=f"{self.words} (with weight_decay {times:.3g} times as large)",
        )


def measure_decay(subject: Subject) -> Decay:
    """Compare the steps of one gradient with and without a decay.

    Without it are the same weights with `weight_decay` set to 0 in the groups, where they have it;
    else, and where that changes nothing, zero weights. Second and third steps are compared: some
    optimizers only begin on their first, and a decay that goes through the momentum grows.

    Raises:
        StepFailed: a step failed.
    """
    gradient = uneven(*SIDES, seed=11)
    weights: Matrix = np.sign(uneven(*SIDES, seed=12)) * np.linspace(0.5, 1.0, SIDES[1])
    weights = weights.astype(np.float32).astype(np.float64)
    setting = _setting(subject)
    times = max(1.0, RESOLVED / (subject.lr * setting)) if setting else 1.0
    fed = [gradient] * STEPS
    moved = subject.trial(weights, decays=times).steps(fed)
    idle = subject.trial(np.zeros(SIDES)).steps(fed)
    rounding = (3e-7 if subject.is_single else 1e-2) * float(np.linalg.norm(weights))
    unit = subject.sign * subject.lr  # what updates were divided by
    controls = [idle]
    if setting:
        controls.insert(0, subject.trial(weights, decays=0.0).steps(fed))
    for control in controls:
        pulls = [unit * (one - other) for one, other in zip(moved, control, strict=True)]
        if not np.isfinite(pulls).all():
            return Decay("unknown", 0.0, setting, "", "the update is not finite")
        if max(float(np.linalg.norm(one)) for one in pulls) <= rounding:
            continue
        if control is idle:  # the setting makes no difference
            return _named(pulls[1:], weights, idle[1], subject.lr, None)
        found = _named(pulls[1:], weights, idle[1], subject.lr, times * (setting or 0.0))
        if found.form == "unknown" and setting:
            added = gradient + times * setting * weights
            wanted = subject.trial(weights, decays=0.0).steps([added] * STEPS)
            if all(difference(*pair) < AGREES for pair in zip(moved[1:], wanted[1:], strict=True)):
                words = "weight_decay * W is added to the gradient"
                return Decay("in_gradient", setting, setting, "", words)
        return found.over(times)
    return Decay("none", 0.0, setting, "", "weights move as zero weights do")


def _named(
    pulls: Sequence[Matrix], weights: Matrix, update: Matrix, lr: float, setting: float | None
) -> Decay:
    """What two pulls on the same weights are.

    Args:
        pulls: W without the decay minus W with it, after the second step and after the third.
        weights: before both.
        update: of the second step, without a decay.
        lr: the learning rate.
        setting: the `weight_decay` that alone makes the difference; None where something else does.
    """
    first, second = pulls
    share = float((first * weights).sum() / (weights**2).sum())
    if max(difference(one, share * weights) for one in (first, second)) < AGREES:
        by = _by(share, lr, setting)
        sign, size = ("-", share) if share > 0 else ("+", -share)
        words = f"W is multiplied by 1 {sign} {size:.3g}" + (f", which is 1 - {by}" if by else "")
        return Decay("decoupled", _unit(share, lr, by), setting, by, words)
    agree = np.sign(update) == np.sign(weights)
    share *= weights.size / max(int(agree.sum()), 1)
    if share > 0 and difference(first, share * weights * agree) < AGREES:
        by = _by(share, lr, setting)
        words = f"W is multiplied by 1 - {share:.3g} where it has the update's sign"
        return Decay("cautious", _unit(share, lr, by), setting, by, words)
    return Decay("unknown", 0.0, setting, "", "the update depends on the weights by no known rule")


def _setting(subject: Subject) -> float | None:
    found = subject.settings.get("weight_decay")
    return float(found) if isinstance(found, int | float) else None


def _unit(share: float, lr: float, by: str) -> float:
    return share if by == "weight_decay" else share / lr


def _by(share: float, lr: float, setting: float | None) -> str:
    if not setting:
        return ""
    if abs(share / (lr * setting) - 1.0) < AGREES:
        return "lr * weight_decay"
    return "weight_decay" if abs(share / setting - 1.0) < AGREES else ""
