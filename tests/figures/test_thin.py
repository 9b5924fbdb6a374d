"""Fewer points, the same picture: what every downsampling must keep."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optgeom.figures.arrays import extent, quantiles, small_whole
from optgeom.figures.thin import MOST, buckets, percent, sorted_places, thinned, thinned_band

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6), st.just(float("nan")), st.just(float("inf")), st.floats(-1, 1)
)
CURVES = st.lists(NUMBERS, min_size=1, max_size=400).map(np.array)


@given(CURVES, st.integers(4, 60))
def test_a_curve_keeps_its_extremes_and_its_ends(values: np.ndarray, most: int) -> None:
    kept = thinned(values, most=most)
    assert np.all(np.diff(kept) > 0)
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return
    assert {finite[0], finite[-1]} <= set(kept)
    assert extent(values[kept]) == extent(values)


@given(CURVES, st.integers(4, 60))
def test_every_bucket_keeps_its_own_extremes(values: np.ndarray, most: int) -> None:
    kept = set(thinned(values, most=most).tolist())
    if len(values) <= most:
        assert len(kept) == len(values)
        return
    edges = buckets(len(values), most // 4)
    for start, stop in pairwise(edges):
        inside = [one for one in range(start, stop) if np.isfinite(values[one])]
        if inside:
            mine = values[[one for one in inside if one in kept]]
            assert (mine.min(), mine.max()) == (values[inside].min(), values[inside].max())


def _gaps(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the stretches without a number, found by walking along."""
    found, start = [], None
    for place, value in enumerate([*values, 0.0]):
        if not np.isfinite(value) and start is None:
            start = place
        elif np.isfinite(value) and start is not None:
            found.append((start, place))
            start = None
    return found


@given(CURVES, st.integers(4, 60))
def test_a_line_breaks_where_it_broke(values: np.ndarray, most: int) -> None:
    kept = thinned(values, most=most).tolist()
    gaps = sorted(_gaps(values), key=lambda gap: gap[0] - gap[1])[: max(1, most // 4)]
    for start, stop in gaps:
        assert start in kept
        assert start == 0 or start - 1 in kept
        assert stop == len(values) or stop in kept


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 300))
def test_one_gap_of_a_long_run_is_seen(count: int, start: int, length: int) -> None:
    values = np.sin(np.arange(count + start + length + 1.0))
    values[start : start + length] = np.nan
    kept = thinned(values)
    drawn = values[kept]
    assert np.isnan(drawn).any()
    # No line crosses the gap: between the kept neighbours stands a point without a number.
    before, after = np.searchsorted(kept, start - 1), np.searchsorted(kept, start + length)
    assert np.isnan(drawn[before + 1 : after]).any() or start == 0


@given(CURVES, st.integers(4, 60), st.data())
def test_a_bucket_with_a_bound_keeps_one(
    values: np.ndarray, most: int, data: st.DataObject
) -> None:
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    kept = thinned(values, flags=flags, most=most)
    assert flags[kept].any() == flags.any()
    if len(values) > most:
        edges = buckets(len(values), most // 4)
        for start, stop in pairwise(edges):
            assert flags[kept[(kept >= start) & (kept < stop)]].any() == flags[start:stop].any()


def test_a_long_curve_becomes_short() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    assert len(thinned(values)) <= MOST
    holes = np.where(np.arange(200_000) % 2, values, np.nan)
    assert len(thinned(holes)) <= 2 * MOST


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9)), min_size=1), st.integers(2, 30))
def test_a_thinned_band_covers_the_band(edges: list[tuple[float, float]], most: int) -> None:
    x = np.arange(len(edges)) * 10
    low = np.array([one for one, _ in edges])
    high = low + [width for _, width in edges]
    at, lows, highs = thinned_band(x, low, high, most=most)
    assert len(at) <= max(most, len(x) if len(x) <= most else 0)
    assert (at[0], at[-1]) == (x[0], x[-1])
    np.testing.assert_array_less(np.interp(x, at, lows) - 1e-9, low + 1e-9)
    np.testing.assert_array_less(high - 1e-9, np.interp(x, at, highs) + 1e-9)


@given(st.integers(0, 40_000))
def test_sorted_curves_keep_both_ends(count: int) -> None:
    kept = sorted_places(count)
    assert len(kept) <= 600
    assert np.all(np.diff(kept) > 0)
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)


def test_the_ends_of_8192_neurons_are_drawn_one_by_one() -> None:
    kept = set(sorted_places(8192).tolist())
    assert set(range(82)) <= kept
    assert set(range(8192 - 82, 8192)) <= kept


def test_percent_of_a_sorted_curve() -> None:
    assert percent(3).tolist() == [0, 50, 100]
    assert percent(1).tolist() == [50]
    assert percent(0).tolist() == []


@given(
    st.integers(1, 6).flatmap(
        lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1)
    )
)
def test_quantiles_are_numpys(rows: list[list[float]]) -> None:
    values = np.array(rows)
    finite = np.where(np.isfinite(values), values, np.nan)
    for share, found in zip((0.25, 0.5, 0.75), quantiles(values, 0.25, 0.5, 0.75), strict=True):
        for row, one in zip(finite, found, strict=True):
            if np.isnan(row).all():
                assert np.isnan(one)
            else:
                np.testing.assert_allclose(one, np.nanquantile(row, share), rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(-(2**40), 2**40), max_size=5))
def test_whole_numbers_are_stacked_without_loss(numbers: list[int]) -> None:
    of = np.array(numbers, dtype=np.int64)
    stacked = small_whole(of, of[::-1])
    assert stacked.shape == (len(numbers), 2)
    assert stacked[:, 0].tolist() == numbers
