"""Which steps and layers are captured: a function of the settings, thinned by the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optgeom.hooks import Clock, WatchError
from optgeom.hooks.clock import COMPARED_EVERY, Clocks, next_capture, plan

cadences = st.tuples(
    st.integers(1, 6), st.integers(1, 4), st.integers(0, 4), st.integers(1, 4)
).map(lambda c: Clocks.of(c[0], c[0] * c[1], c[0] * c[2], min(c[3], c[0] * c[1])))
windows = st.tuples(cadences, st.integers(0, 40), st.none() | st.integers(1, 60)).map(
    lambda c: Clocks(
        c[0].every,
        c[0].spectra_every,
        c[0].updates_every,
        c[0].burst,
        c[1],
        None if c[2] is None else c[1] + c[2],
    )
)
thinnings = st.integers(0, 5).map(lambda power: 2**power)
steps = st.integers(0, 200)


@given(st.lists(windows, min_size=1, max_size=12), steps, thinnings, thinnings)
def test_a_larger_thinning_captures_a_subset_on_the_same_steps(
    clocks: list[Clocks], step: int, first: int, second: int
) -> None:
    small, large = sorted((first, second))
    wide = plan(clocks, step, small, whole=False)
    narrow = plan(clocks, step, large, whole=False)
    due = frozenset(i for i, one in enumerate(clocks) if one.norms(step))
    assert (wide is None) == (narrow is None) == (not due)
    if wide is not None and narrow is not None:
        assert narrow.norms == wide.norms == due
        assert narrow.spectra <= wide.spectra
        assert narrow.updates <= wide.updates
        left_out = len(narrow.spectra) + len(narrow.updates) + narrow.left_out
        assert left_out == len(wide.spectra) + len(wide.updates) + wide.left_out


@given(st.lists(windows, min_size=1, max_size=4), steps)
def test_the_next_capture_is_the_first_step_with_a_plan(clocks: list[Clocks], step: int) -> None:
    wanted = [
        later
        for later in range(step, step + 200)
        if plan(clocks, later, 1, whole=False) is not None
    ]
    assert next_capture(clocks, step) == (wanted[0] if wanted else None)


@given(st.lists(cadences, min_size=1, max_size=40), thinnings)
def test_every_layer_has_its_turn(clocks: list[Clocks], thinning: int) -> None:
    """Whatever the clocks of the others: within k of its own captures, and exactly once."""
    for index, own in enumerate(clocks):
        turns = [
            plan(clocks, capture * own.spectra_every, thinning, whole=False)
            for capture in range(thinning)
        ]
        assert sum(index in turn.spectra for turn in turns if turn is not None) == 1


@given(st.lists(windows, min_size=1, max_size=12), steps, thinnings)
def test_a_whole_step_has_everything(clocks: list[Clocks], step: int, thinning: int) -> None:
    found = plan(clocks, step, thinning, whole=True)
    assert found is not None
    assert found.norms == found.spectra == found.updates == frozenset(range(len(clocks)))


@given(cadences)
def test_bursts_are_consecutive_and_start_at_the_clock(clocks: Clocks) -> None:
    due = [step for step in range(3 * clocks.spectra_every) if clocks.spectra(step)]
    assert due == [
        capture * clocks.spectra_every + i for capture in range(3) for i in range(clocks.burst)
    ]
    assert all(clocks.norms(step) for step in due)


@given(cadences)
def test_the_rates_are_those_of_the_steps(clocks: Clocks) -> None:
    period = clocks.every * clocks.spectra_every * max(clocks.updates_every, 1)
    counts = [
        sum(map(due, range(period))) / period
        for due in (clocks.norms, clocks.spectra, clocks.updates)
    ]
    # bursts of two clocks may meet: then norms are a little rarer than is said
    assert counts[0] <= clocks.norms_per_step * (1 + 1e-9)
    assert counts[1] == pytest.approx(clocks.spectra_per_step)
    assert counts[2] == pytest.approx(clocks.updates_per_step)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, None, None, 1), "every must be an integer of at least 1, got 0"),
        ((True, None, None, 1), "every must be an integer of at least 1, got True"),
        ((2.5, None, None, 1), "every must be an integer of at least 1, got 2.5"),
        ((10, 25, None, 1), "spectra_every must be a multiple of every=10, got 25; .* is 30"),
        ((10, None, 15, 1), "updates_every must be a multiple of every=10, got 15; .* is 20"),
        ((10, None, -1, 1), "updates_every must be an integer of at least 0, got -1"),
        ((10, None, None, 0), "burst must be an integer of at least 1, got 0"),
        ((10, 10, None, 11), "burst must not exceed spectra_every=10, got 11"),
        ((10, None, None, 1, -1), "start must be an integer of at least 0, got -1"),
        ((10, None, None, 1, 5, 5), "stop must be beyond start=5, got 5"),
        ((10, None, None, 1, 0, 7.0), "stop must be an integer of at least 0, got 7.0"),
    ],
)
def test_cadences_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(WatchError, match=message):
        Clocks.of(*settings)


def test_a_group_takes_what_it_does_not_say_from_watch() -> None:
    given = Clock(every=50, spectra_every=100, burst=3)
    assert Clock().over(given) == Clocks(50, 100, 1000, 3)
    assert Clock(every=10, updates_every=0, stop=70).over(given) == Clocks(10, 100, 0, 3, 0, 70)
    with pytest.raises(WatchError, match="spectra_every must be a multiple of every=30, got 100"):
        Clock(every=30).over(given)


def captured(trace: Any, table: str) -> list[int]:
    return trace.steps("wide", table=table).tolist()


def test_the_clocks_on_a_run(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"every": 2, "spectra_every": 4, "updates_every": 8, "burst": 2}
    with watched(model, optimizer, **settings) as recorder:
        train(model, optimizer, range(7))
        recorder.capture_next()
        train(model, optimizer, range(7, 11))
        assert recorder.step == 11
    trace = opened()
    assert captured(trace, "metrics") == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert captured(trace, "spectra") == [0, 1, 4, 5, 7, 8, 9]
    assert captured(trace, "updates") == [0, 1, 7, 8, 9]


def groups_of(trace: Any, names: tuple[str, ...], table: str) -> dict[str, list[int]]:
    return {name: trace.steps(name, table=table).tolist() for name in names}


def test_groups_of_layers_have_clocks_of_their_own(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layers = {
        "tall": Clock(every=2, stop=6),
        "row|tall": Clock(start=4, updates_every=0),
        "w": Clock(),
    }
    with watched(model, optimizer, layers=layers, every=3, updates_every=6) as recorder:
        train(model, optimizer, range(9))
        recorder.capture_next()
        train(model, optimizer, range(9, 11))
        assert recorder.step == 11
    trace = opened()
    names = ("tall", "wide", "row")
    assert groups_of(trace, names, "metrics") == {
        "tall": [0, 2, 4, 9],  # its first key wins
        "wide": [0, 3, 6, 9],
        "row": [6, 9],
    }
    assert groups_of(trace, names, "spectra") == groups_of(trace, names, "metrics")
    assert groups_of(trace, names, "updates") == {"tall": [0, 9], "wide": [0, 6, 9], "row": [9]}
    assert trace.info.capture["every"] == 3
    own = trace.info.capture["clocks"]
    assert own["tall"] == {
        "every": 2,
        "spectra_every": 2,
        "updates_every": 6,
        "burst": 1,
        "start": 0,
        "stop": 6,
    }
    assert own["row|tall"] | {"start": 0, "updates_every": 6} == own["w"]


@pytest.mark.parametrize("every", [1, 2, 3, 10, 32, 50])
def test_layers_take_turns_at_being_compared(every: int) -> None:
    """At most `COMPARED_EVERY` steps between two turns, each capture its share of the layers."""
    clocks = [Clocks.of(every, 1000 * every, 0)] * 40
    turns = max(1, COMPARED_EVERY // every)
    compared = []
    for step in range(every, every * (turns + 1), every):  # one round without a spectrum
        found = plan(clocks, step, 1, whole=False)
        assert found is not None
        assert found.norms == frozenset(range(40))
        assert found.compared <= found.norms
        assert abs(len(found.compared) - 40 / turns) < 1
        compared += sorted(found.compared)
    assert sorted(compared) == list(range(40))


def test_layers_with_a_spectrum_are_compared(bag, train, watched, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watched(model, optimizer, spectra_every=4, updates_every=0):
        train(model, optimizer, range(9))
    rows = opened().metrics(stages=["update"]).to_pylist()
    assert len(rows) == 9 * 3
    last: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        layer, step = row["layer"], row["step"]
        in_turn = ("tall", "wide", "row").index(layer) == step  # of 32, and there are three layers
        whole = step % 4 == 0 or in_turn
        for name in ("radial_fraction", "cosine_gradient", "column_norm_cv"):
            assert (row[name] is not None) == whole, (name, step, layer)
        assert row["update_to_weight"] is not None
        assert row["neuron_norm_cv"] is not None
        since = step - last[layer] if whole and layer in last else None
        assert row["steps_since_previous"] == since
        last |= {layer: step} if whole else {}
