"""The learning rate's way: linear warm-up, then down to a fraction of the peak."""

from __future__ import annotations

import math

from optgeom.trainer.config import ScheduleConfig


def lr_factor(step: int, schedule: ScheduleConfig) -> float:
    """Fraction of the peak learning rate at a step.

    Rises as 1/warmup, 2/warmup, ..., 1, so that the first step already moves; then falls to
    ``final`` at the last step, at once or, with ``wsd``, in the last ``cooldown`` of the steps.

    Args:
        step: From 0 to ``schedule.steps - 1``; beyond, the last value holds.
        schedule: The settings.

    Returns:
        A number in [0, 1].

    >>> schedule = ScheduleConfig(steps=11, warmup=2, final=0.0)
    >>> [round(lr_factor(step, schedule), 2) for step in (0, 1, 2, 10)]
    [0.5, 1.0, 0.89, 0.0]
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.decay == "constant":
        return 1.0
    peak = max(schedule.warmup - 1, 0)
    last = schedule.steps - 1
    if schedule.decay == "wsd":
        peak = max(peak, last - round(schedule.cooldown * schedule.steps))
    way = min(1.0, max(0.0, (step - peak) / max(1, last - peak)))
    remaining = (1 + math.cos(math.pi * way)) / 2 if schedule.decay == "cosine" else 1 - way
    return schedule.final + (1 - schedule.final) * remaining
