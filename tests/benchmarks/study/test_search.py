"""The search ends with the best inside, at the same number of trials wherever it need not grow."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study.search import TRIALS, best_rate, is_inside, next_rates


def searched(first: float, optimum: float) -> dict[float, float]:
    """The trials of a loss that is lowest at ``optimum``."""
    tried: dict[float, float] = {}
    while rates := next_rates(first, tried):
        assert not set(rates) & set(tried)
        tried |= {rate: math.log(rate / optimum) ** 2 for rate in rates}
        assert len(tried) < 30
    return tried


@given(st.floats(1e-4, 1.0), st.floats(-4.0, 4.0))
def test_ends_with_the_best_inside_and_near_the_optimum(first: float, octaves: float) -> None:
    optimum = first * 2**octaves
    tried = searched(first, optimum)
    assert is_inside(tried)
    assert abs(math.log2(best_rate(tried) / optimum)) <= 0.501
    assert len(tried) >= TRIALS
    if abs(octaves) < 2.4:
        assert len(tried) == TRIALS


def test_what_diverged_is_never_the_best() -> None:
    tried = {0.01: 2.0, 0.02: 1.9, 0.04: math.nan}
    assert best_rate(tried) == 0.02
    assert is_inside(tried)
    assert best_rate({0.01: math.inf, 0.02: 3.0}) == 0.02


def test_a_best_at_the_edge_is_not_inside() -> None:
    assert not is_inside({0.01: 1.0, 0.02: 2.0})
