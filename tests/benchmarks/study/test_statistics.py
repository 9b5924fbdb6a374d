"""Intervals against scipy's own test, crossings against a drawn line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.statistics import Mean, paired, shares_saved, steps_to


def test_an_interval_is_that_of_the_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 5))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    mean = paired(list(first), list(second))
    assert mean.value - mean.half == pytest.approx(expected.low)
    assert mean.value + mean.half == pytest.approx(expected.high)
    assert mean.count == 5


def test_one_seed_has_no_interval() -> None:
    assert math.isinf(Mean.of([1.0]).half)


def test_steps_to_a_loss_lie_on_the_line_between_two_evaluations() -> None:
    curve = [(40, 2.0), (80, 1.6), (120, 1.7), (160, 1.2)]
    steps = np.interp(0.5, [0, 1], [40, 80])
    assert steps_to(curve, 1.8) == pytest.approx(steps)
    assert steps_to(curve, 1.65) == pytest.approx(75)  # the first crossing, though it rises again
    assert steps_to(curve, 2.5) == 40
    assert steps_to(curve, 1.2) == 160
    assert steps_to(curve, 1.1) is None


def test_a_run_that_did_not_reach_the_loss_saves_nothing_that_is_known() -> None:
    curves = [[(50, 2.0), (100, 1.0)], [(50, 2.0), (100, 1.5)]]
    assert shares_saved(curves, [1.5, 1.2]) == [pytest.approx(0.25), None]
