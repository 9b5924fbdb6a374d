"""The pieces that figures share: labels apart, colours as identity, bins, leverage, theme."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.figures.bins import bins_of, winners
from optgeom.figures.identity import run_slots, slots
from optgeom.figures.labels import EndLabel, end_labels, spread, wrapped
from optgeom.figures.leverage import polar_row_norms
from optgeom.figures.reading import as_traces, at_or_before
from optgeom.figures.theme import CONFIG, DARK, LIGHT, Theme, theme_of
from optgeom.traces.errors import OptgeomError
from optgeom.traces.store import Traces


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 0.3))
def test_labels_are_moved_apart_in_order_and_stay_inside(places: list[float], gap: float) -> None:
    moved = spread(places, gap)
    assert len(moved) == len(places)
    assert all(-1e-9 <= one <= 1 + 1e-9 for one in moved)
    order = sorted(range(len(places)), key=lambda i: places[i])
    room = gap if gap * (len(places) - 1) <= 1 else 1 / (len(places) - 1)
    for before, after in pairwise(order):
        assert moved[after] - moved[before] >= room - 1e-9


@given(st.lists(st.integers(0, 10), unique=True, max_size=6))
def test_labels_that_do_not_collide_stay_where_they_are(places: list[int]) -> None:
    given_places = [one / 10 for one in places]
    assert spread(given_places, 0.05) == pytest.approx(given_places)


def test_end_labels_escape_names() -> None:
    (note,) = end_labels([EndLabel("<b>x</b>", "#000000", 0.5)], plot_height=272)
    assert note["text"] == "&lt;b&gt;x&lt;/b&gt;"


def test_long_texts_are_broken_at_spaces() -> None:
    text = wrapped("word " * 40, width=20)
    assert all(len(line) <= 20 for line in text.split("<br>"))


def test_reserved_colours_and_the_next_free_ones() -> None:
    found = slots({"x": "normuon", "y": "normuon", "z": "lion", "w": "muon"})
    assert found == {"x": 0, "y": 3, "z": 4, "w": 1}


@given(st.lists(st.sampled_from(["muon", "normuon", "adamw", "lion"]), max_size=12))
def test_no_two_runs_share_a_slot(algorithms: list[str]) -> None:
    found = slots({str(place): name for place, name in enumerate(algorithms)})
    assert len(set(found.values())) == len(algorithms)


def test_a_run_is_known_by_what_moves_its_blocks(traces: Traces) -> None:
    assert run_slots(traces.values()) == {"adamw": 2, "muon": 1, "normuon": 0}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out_from_the_ground(theme: Theme) -> None:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    ground = luminance(theme.ground)
    for color in (*theme.runs, theme.muted, theme.reference):
        high, low = max(luminance(color), ground), min(luminance(color), ground)
        assert (high + 0.05) / (low + 0.05) >= 3, color
    assert theme.diverging[2] == (0.5, theme.ground)


def test_nothing_is_offered_to_a_server() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""
    assert CONFIG["displayModeBar"] is False


def test_slots_past_the_sixth_are_grey() -> None:
    assert LIGHT.run(6) == LIGHT.run(40) == LIGHT.other


def test_an_unknown_theme_is_named() -> None:
    with pytest.raises(OptgeomError, match="pink"):
        theme_of("pink")  # type: ignore[arg-type]


@given(
    st.integers(2, 40).flatmap(
        lambda rows: st.lists(
            st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=rows, max_size=rows
        )
    ),
    st.integers(1, 12),
)
def test_a_bin_shows_its_best_entry(rows: list[list[float]], most: int) -> None:
    scores = np.asarray(rows).T
    bins = bins_of(len(rows), most=most)
    shown, best = winners(scores, bins)
    assert best.shape == (3, min(most, len(rows)))
    np.testing.assert_array_equal(best, np.take_along_axis(scores, shown, axis=1))
    assert np.all((shown >= bins.edges[:-1]) & (shown < bins.edges[1:]))
    # The best of all is never binned away.
    np.testing.assert_array_equal(best.max(axis=1), scores.max(axis=1))


def test_a_hole_wins_no_bin() -> None:
    shown, best = winners(np.array([[np.nan, 0.5, np.nan, np.nan]]), bins_of(4, most=2))
    assert shown[0, 0] == 1
    assert np.isnan(best[0, 1])


def test_leverage_against_the_projector() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((40, 12)) * np.exp(rng.standard_normal((40, 1)))
    projector = matrix @ np.linalg.inv(matrix.T @ matrix) @ matrix.T
    np.testing.assert_allclose(polar_row_norms(matrix), np.sqrt(np.diag(projector)), rtol=1e-9)


def test_leverage_leaves_out_what_is_not_resolved() -> None:
    matrix = np.diag([1.0, 0.5, 1e-9])
    assert polar_row_norms(matrix).round(6).tolist() == [1.0, 1.0, 0.0]
    assert polar_row_norms(np.zeros((3, 2))).tolist() == [0.0, 0.0, 0.0]


def test_the_hatch_of_steps() -> None:
    assert at_or_before((0, 10, 20), 10) == 10
    assert at_or_before((), 10) is None


def test_no_trace_is_an_error() -> None:
    with pytest.raises(OptgeomError, match="at least one trace"):
        as_traces([])


def test_colours_are_hexadecimal() -> None:
    for theme in (LIGHT, DARK):
        assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in theme.runs)
