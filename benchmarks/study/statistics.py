"""From outcomes to what is compared: means with intervals over seeds, steps to a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.timing import unbroken

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and its 95 % interval by Student's t.

    Attributes:
        value: The mean.
        half: Half the interval's width; infinite with one seed.
        count: Of seeds.
    """

    value: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        r"""The mean of one value a seed.

        >>> f"{Mean.of([1.0, 2.0, 3.0]):.2f}"
        '2.00\xa0±\xa02.48'
        """
        array = np.asarray(values, np.float64)
        count = len(array)
        if count < 2:
            return cls(float(array.mean()), math.inf, count)
        error = float(array.std(ddof=1)) / math.sqrt(count)
        half = error * float(stats.t.ppf(0.975, count - 1))
        return cls(float(array.mean()), half, count)

    def __format__(self, spec: str) -> str:
        return unbroken(f"{self.value:{spec}} ± {self.half:{spec.lstrip('+')}}")


def paired(values: Sequence[float], against: Sequence[float]) -> Mean:
    """The mean difference seed by seed: equal weights at the start, equal data in equal order."""
    return Mean.of([one - other for one, other in zip(values, against, strict=True)])


def steps_to(curve: Curve, loss: float) -> float | None:
    """How many steps a run needed to a loss, straight between two evaluations.

    Args:
        curve: Steps done and loss, ascending by step.
        loss: To be reached: the first crossing counts.

    Returns:
        None where it was not reached.

    >>> steps_to([(10, 3.0), (20, 1.0), (30, 2.0)], 1.5)
    17.5
    """
    for i, (step, value) in enumerate(curve):
        if value <= loss:
            if i == 0:
                return float(step)
            before, higher = curve[i - 1]
            return before + (step - before) * (higher - loss) / (higher - value)
    return None


def shares_saved(curves: Sequence[Curve], losses: Sequence[float]) -> list[float | None]:
    """The share of the steps that each run could have been without, seed by seed, to reach a loss.

    Args:
        curves: One a seed; its last step is the whole run.
        losses: One a seed.

    Returns:
        In [0, 1); None where the loss was not reached.
    """
    found = []
    for curve, loss in zip(curves, losses, strict=True):
        steps = steps_to(curve, loss)
        found.append(None if steps is None else 1 - steps / curve[-1][0])
    return found
