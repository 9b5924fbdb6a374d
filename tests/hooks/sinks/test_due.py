"""When a number is sent: once nothing can change it, against the rule written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optgeom
from optgeom.hooks.sinks.due import Due
from optgeom.hooks.sinks.series import Line, lines_of, points_of
from optgeom.sinks import Series


def line(counts: list[int], whole: list[bool], first: int = 0) -> Line:
    steps = np.arange(first, first + len(counts))
    return Line("a", steps, steps * 0.5, np.array(counts), np.array(whole))


def sent(due: Due, one: Line, now: float, *, last: bool = False) -> list[int]:
    """The steps that are sent at a look."""
    found = due.of([one], now, reached=None, late=30.0, last=last)
    due.was_sent(found)
    return [step for part in found for step in part.steps.tolist()]


def test_a_number_goes_out_when_it_stands_and_a_later_one_is_there() -> None:
    due = Due(0)
    assert sent(due, line([2, 2, 2], [True] * 3), 0.0) == []
    assert sent(due, line([2, 2, 2], [True] * 3), 5.0) == [0, 1]
    assert sent(due, line([2, 2, 2], [True] * 3), 29.0) == []
    assert sent(due, line([2, 2, 2], [True] * 3), 30.0) == [2]
    assert sent(due, line([2, 2, 2], [True] * 3), 90.0) == []


def test_a_number_of_some_layers_waits_for_the_others() -> None:
    due = Due(0)
    for now in (0.0, 5.0, 100.0, 200.0):
        assert sent(due, line([1], [False]), now) == []
    assert sent(due, line([2, 1], [True, False]), 205.0) == []  # its second layer has come
    assert sent(due, line([2, 1], [True, False]), 210.0) == [0]
    assert sent(due, line([2, 1], [True, False]), 900.0) == []
    assert sent(due, line([2, 1], [True, False]), 900.0, last=True) == [1]


def test_where_layers_stay_away_a_later_number_that_has_stood_is_enough() -> None:
    due = Due(0)
    assert sent(due, line([1, 1, 1], [False] * 3), 0.0) == []
    assert sent(due, line([1, 1, 1], [False] * 3), 29.0) == []
    assert sent(due, line([1, 1, 1], [False] * 3), 30.0) == [0, 1]


def test_those_after_one_that_waits_wait_too() -> None:
    due = Due(0)
    sent(due, line([1, 2, 2], [False, True, True]), 0.0)
    assert sent(due, line([1, 2, 2], [False, True, True]), 5.0) == []
    assert sent(due, line([2, 2, 2], [True] * 3), 10.0) == []
    assert sent(due, line([2, 2, 2], [True] * 3), 15.0) == [0, 1]


def test_of_a_resumed_run_only_its_own_steps() -> None:
    due = Due(2)
    found = due.of([line([1] * 6, [True] * 6)], 0.0, reached=4, late=30.0, last=True)
    assert [one.steps.tolist() for one in found] == [[2, 3, 4]]


@pytest.mark.parametrize("after", [0, 17, 10_000])
def test_what_comes_after_a_step_is_the_end_of_the_whole(demo_runs: Path, after: int) -> None:
    trace = optgeom.open_trace(demo_runs / "normuon")
    series = Series(layers=("attention.o",))
    all_points = points_of(lines_of(trace, series))
    found = points_of(lines_of(trace, series, lambda _: after))
    assert found == [one for one in all_points if one.step > after]


def test_a_layer_that_has_no_row_yet_leaves_a_number_open(demo_runs: Path) -> None:
    trace = optgeom.open_trace(demo_runs / "normuon")
    layers = [one.name for one in trace.layers]
    for metric in ("stable_rank", "neuron_norm_cv"):
        recorded = trace.grid(metric).recorded
        for found in lines_of(trace, Series(metrics=(metric,), layers=(".",), scalars=())):
            name = found.name.removeprefix("optgeom/layers/").removesuffix(f"/{metric}")
            if name not in layers:
                continue
            steps = trace.grid(metric).steps.tolist()
            column = recorded[:, layers.index(name)]
            wanted = [bool(column[steps.index(step) :].any()) for step in found.steps.tolist()]
            assert found.is_whole.tolist() == wanted
