"""From which captured steps a second moment is known."""

from __future__ import annotations

import pytest

from optgeom.geometry.counterfactual.history import applied_at, bases
from optgeom.geometry.counterfactual.rule import UNKNOWN_SHARE, SecondMoment
from optgeom.traces.info import AttemptInfo

ONE = (AttemptInfo(0, 0, ""),)


def _of(*steps: int, attempt: int = 0) -> dict[int, int]:
    return dict.fromkeys(steps, attempt)


def test_the_runs_first_step_and_all_that_follow_it_without_a_gap_are_exact() -> None:
    found = bases(_of(0, 1, 2, 4), (), 3, ONE)
    assert [found[step].how for step in (0, 1, 2, 4)] == ["start", "start", "start", "short"]
    assert [found[step].steps for step in (0, 1, 2, 4)] == [1, 2, 3, 1]


def test_a_burst_counts_from_its_own_first_step() -> None:
    found = bases(_of(*range(10, 14), *range(20, 22)), (), 3, ONE)
    assert [found[step].how for step in found] == ["short", "short", "burst", "burst"] + [
        "short"
    ] * 2
    assert found[20].begins
    assert not found[21].begins


def test_from_a_recorded_second_moment_on_it_is_known() -> None:
    found = bases(_of(10, 11, 12, 20), (11,), 60, ONE)
    assert [one.how for one in found.values()] == ["short", "recorded", "recorded", "short"]


def test_a_resumed_run_goes_on_where_it_did_not_go_back() -> None:
    captured = _of(0, 1, 2) | _of(3, 4, attempt=1)
    went_on = (AttemptInfo(0, 0, ""), AttemptInfo(1, 3, ""))
    assert bases(captured, (), 60, went_on)[4].how == "start"
    # it was resumed at 2, of which the first attempt's matrix is all that is left
    went_back = (AttemptInfo(0, 0, ""), AttemptInfo(1, 2, ""))
    assert bases(captured, (), 60, went_back)[3].how == "short"


def test_only_what_a_wanted_step_needs_is_applied() -> None:
    found = bases(_of(*range(4), *range(10, 14), 30), (), 3, ONE)
    assert applied_at(found, {2, 13, 30}) == {0, 1, 2, 10, 11, 12, 13}
    assert applied_at(found, {11, 30}) == set()


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.95, 0.98, 0.999])
def test_an_unknown_start_weighs_as_little_for_every_decay(beta: float) -> None:
    needed = SecondMoment(beta, lambda shape: (shape[0], 1)).steps_needed
    assert beta**needed <= UNKNOWN_SHARE * (1 + 1e-6) < beta ** (needed - 1)
