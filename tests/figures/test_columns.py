"""Heatmap columns over steps: numeric, as wide as time, gaps kept, extremes never hidden."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.figures.columns import APART, MOST, at, columns_of, pick
from optgeom.figures.steps import drawn, inside, reach

STEPS = st.lists(st.integers(0, 3000), min_size=1, max_size=300, unique=True).map(
    lambda steps: np.array(sorted(steps))
)


@given(STEPS, st.integers(8, 60))
def test_columns_tile_the_axis_and_hold_every_capture_once(steps: np.ndarray, most: int) -> None:
    laid = columns_of(steps, most=most)
    assert len(laid.edges) == len(laid.starts) + 1 == len(laid.stops) + 1
    assert len(laid.starts) <= most
    assert np.all(np.diff(laid.edges) > 0)
    held = [one for a, b in zip(laid.starts, laid.stops, strict=True) for one in range(a, b)]
    assert held == list(range(len(steps)))
    for column, (start, stop) in enumerate(zip(laid.starts, laid.stops, strict=True)):
        own = steps[start:stop]
        assert np.all((own >= laid.edges[column]) & (own <= laid.edges[column + 1]))


@given(STEPS)
def test_unusual_spacings_leave_gaps_and_others_none(steps: np.ndarray) -> None:
    laid = columns_of(steps, most=10_000)
    spacing = np.diff(steps)
    wide = spacing > APART * np.median(spacing) if len(spacing) else spacing
    assert (laid.starts == laid.stops).sum() == wide.sum()
    for column in np.flatnonzero(laid.starts == laid.stops):
        before, after = steps[laid.starts[column] - 1], steps[laid.starts[column]]
        assert before < laid.edges[column] < laid.edges[column + 1] < after


def test_a_column_ends_halfway_to_the_next_capture() -> None:
    laid = columns_of(np.array([0, 10, 20, 40, 50]))
    assert laid.edges.tolist() == [-5, 5, 15, 30, 45, 55]


def test_one_capture_and_none() -> None:
    assert columns_of(np.array([7])).edges.tolist() == [6, 8]
    assert reach([np.array([7])]) == (6, 8)
    assert len(columns_of(np.array([], dtype=np.int64)).edges) == 0


def test_a_wide_gap_stays_among_many_captures() -> None:
    steps = np.concatenate([np.arange(0, 2000), np.arange(2400, 4000)])
    laid = columns_of(steps)
    gap = np.flatnonzero(laid.starts == laid.stops)
    assert [(laid.edges[one], laid.edges[one + 1]) for one in gap] == [(1999.5, 2399.5)]
    assert len(laid.starts) <= MOST


@given(
    STEPS,
    st.integers(8, 40),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.6),
)
def test_no_extreme_is_lost_and_no_number_comes_from_nowhere(
    steps: np.ndarray, most: int, rows: int, seed: int, holes: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((rows, len(steps)))
    scores[rng.random(scores.shape) < holes] = np.nan
    laid = columns_of(steps, most=most)
    picked = pick(scores, laid)
    shown = at(scores, picked)
    for row in range(rows):
        for column, (start, stop) in enumerate(zip(laid.starts, laid.stops, strict=True)):
            own = scores[row, start:stop]
            if np.isnan(own).all():
                assert np.isnan(shown[row, column])
            else:
                assert shown[row, column] == np.nanmax(own)
                assert start <= picked[row, column] < stop


@given(STEPS, st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(sorted).map(tuple))
def test_a_zoom_draws_its_steps_and_their_neighbours(
    steps: np.ndarray, span: tuple[int, int]
) -> None:
    kept = steps[drawn(steps, span)]
    within = steps[inside(steps, span)]
    assert set(within) <= set(kept)
    outside = [one for one in kept if one not in within]
    assert len(outside) <= 2
    before, after = steps[steps < span[0]], steps[steps > span[1]]
    assert set(outside) == {*before[-1:], *after[:1]}


@pytest.mark.parametrize(
    ("span", "ends"), [(None, (0, 40)), ((12, 18), (12, 18)), ((5, 5), (4, 6))]
)
def test_the_axis_is_the_span_or_all_steps(
    span: tuple[int, int] | None, ends: tuple[int, int]
) -> None:
    assert reach([np.array([10, 40]), np.array([], np.int64), np.array([0, 20])], span) == ends
