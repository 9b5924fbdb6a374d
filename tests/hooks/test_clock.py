"""Which steps and layers are captured: a function of the settings, thinned by the budget."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optgeom.hooks import WatchError
from optgeom.hooks.clock import Budget, Clocks, plan
from optgeom.hooks.costs import Costs

cadences = st.tuples(
    st.integers(1, 6), st.integers(1, 4), st.integers(0, 4), st.integers(1, 4)
).map(lambda c: Clocks.of(c[0], c[0] * c[1], c[0] * c[2], min(c[3], c[0] * c[1])))
thinnings = st.integers(0, 5).map(lambda power: 2**power)
steps = st.integers(0, 200)


@given(cadences, steps, st.integers(1, 40), thinnings, thinnings)
def test_a_larger_thinning_captures_a_subset_on_the_same_steps(
    clocks: Clocks, step: int, layers: int, first: int, second: int
) -> None:
    small, large = sorted((first, second))
    wide = plan(clocks, step, layers, small, whole=False)
    narrow = plan(clocks, step, layers, large, whole=False)
    assert (wide is None) == (narrow is None) == (not clocks.norms(step))
    if wide is not None and narrow is not None:
        assert narrow.norms == wide.norms == frozenset(range(layers))
        assert narrow.spectra <= wide.spectra
        assert narrow.updates <= wide.updates


@given(cadences, st.integers(1, 40), thinnings)
def test_every_layer_has_its_turn(clocks: Clocks, layers: int, thinning: int) -> None:
    turns = [
        plan(clocks, capture * clocks.spectra_every, layers, thinning, whole=False)
        for capture in range(thinning)
    ]
    seen = [layer for turn in turns if turn is not None for layer in turn.spectra]
    assert sorted(seen) == list(range(layers))


@given(cadences, steps, st.integers(1, 40), thinnings)
def test_a_whole_step_has_everything(clocks: Clocks, step: int, layers: int, thinning: int) -> None:
    found = plan(clocks, step, layers, thinning, whole=True)
    assert found is not None
    assert found.norms == found.spectra == found.updates == frozenset(range(layers))


@given(cadences)
def test_bursts_are_consecutive_and_start_at_the_clock(clocks: Clocks) -> None:
    due = [step for step in range(3 * clocks.spectra_every) if clocks.spectra(step)]
    assert due == [
        capture * clocks.spectra_every + i for capture in range(3) for i in range(clocks.burst)
    ]
    assert all(clocks.norms(step) for step in due)


@given(
    cadences,
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 10.0),
    st.floats(0.0, 1.0),
    st.floats(1e-3, 0.5),
)
def test_the_budget_is_kept_or_the_thinning_is_at_its_end(
    clocks: Clocks, step: float, norms: float, spectra: float, updates: float, share: float
) -> None:
    budget, slower = Budget(share), clocks
    costs = {"step_seconds": step, "norms": norms, "spectra": spectra, "updates": updates}
    for _ in range(60):  # one doubling of each per capture, as long as the run is beyond its share
        slower = budget.decide(slower, achieved=1.0, **costs)
    assert slower.every % clocks.every == 0
    assert norms / slower.every <= share * step
    cost = spectra * slower.burst / slower.spectra_every
    if slower.updates_every:
        cost += updates * slower.burst / slower.updates_every
    assert (
        norms / slower.every + cost / budget.thinning <= share * step * (1 + 1e-9)
        or budget.thinning == 1 << 16
    )


def test_without_a_budget_or_a_known_step_nothing_changes() -> None:
    clocks = Clocks.of(5, None, None, 1)
    costs = {"norms": 9.0, "spectra": 9.0, "updates": 9.0}
    for budget, seconds in ((Budget(None), 1.0), (Budget(0.01), 0.0)):
        assert budget.decide(clocks, achieved=1.0, step_seconds=seconds, **costs) == clocks
        assert budget.thinning == 1


def test_one_noisy_measurement_changes_nothing_while_the_run_keeps_to_its_share() -> None:
    clocks, budget = Clocks.of(5, None, None, 1), Budget(0.01)
    costs = {"step_seconds": 0.1, "norms": 9.0, "spectra": 9.0, "updates": 9.0}
    assert budget.decide(clocks, achieved=0.0099, **costs) == clocks
    assert budget.thinning == 1
    assert budget.decide(clocks, achieved=0.011, **costs).every == 10


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
    ],
)
def test_cadences_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(WatchError, match=message):
        Clocks.of(*settings)


def test_the_first_capture_does_not_count_as_a_cost() -> None:
    costs = Costs()
    costs.measuring = 100.0  # what is loaded only once
    costs.captured(inside=1.0, outside=100.0, now=1.0)
    assert costs.whole_capture(3, 0.0) == (0.0, 0.0, 0.0)
    costs.uncaptured(inside=1.0, now=3.0)
    for now in (6.0, 9.0, 12.0):
        assert costs.whole_capture(3, 0.0)[0] == 0.0  # too few to be believed
        costs.measuring = 0.5
        costs.captured(inside=1.25, outside=0.75, now=now)
    assert costs.whole_capture(3, 0.0)[0] == 0.75
    assert costs.total == 103.0
    assert costs.step_seconds == 2.0  # the time between steps, less what capture took of it


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


def test_captured_steps_do_not_depend_on_the_budget(watched, bag, train, opened, tmp_path) -> None:
    for budget in (None, 0.9):
        model = bag()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        out = tmp_path / str(budget)
        with watched(model, optimizer, every=3, budget=budget, out=out) as recorder:
            recorder._budget.thinning = 1 if budget is None else 4
            recorder._budget.share = None
            train(model, optimizer, range(10))
    free, thinned = opened("None"), opened("0.9")
    assert captured(free, "metrics") == captured(thinned, "metrics") == [0, 3, 6, 9]
    assert captured(free, "spectra") == [0, 3, 6, 9]
    assert captured(thinned, "spectra") == [3]  # the second layer's turn
    left_out = thinned.scalars("rows_left_out.budget")
    assert left_out["value"].to_pylist() == [4.0, 4.0, 4.0, 6.0]  # spectra and raw matrices


def test_a_budget_that_norms_alone_exceed_doubles_the_clock_and_says_so(
    watched, bag, train, opened, caplog
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        caplog.at_level(logging.WARNING, logger="optgeom"),
        watched(model, optimizer, budget=0.001) as recorder,
    ):
        train(model, optimizer, range(6))
        assert recorder._clocks.every > 1
    assert "norms alone exceed the budget" in caplog.text
    assert opened().info.capture["every"] == recorder._clocks.every


def test_two_optimizers_make_one_step(watched, bag, give_gradients, opened) -> None:
    model = bag()
    first = torch.optim.SGD([model.tall], lr=0.1)
    second = torch.optim.SGD([model.wide, model.row], lr=0.2)
    with watched(model, [first, second]) as recorder:
        for step in range(3):
            give_gradients(model, step)
            first.step()
            second.step()
            recorder.advance()  # the step has ended by itself: nothing to end
        assert recorder.step == 3
    trace = opened()
    names = {layer.name: layer.optimizer for layer in trace.layers}
    assert names == {"tall": "SGD", "wide": "SGD-1", "row": "SGD-1"}
    assert trace.steps("tall").tolist() == trace.steps("wide").tolist() == [0, 1, 2]


def test_where_one_optimizer_rests_the_step_is_ended_by_hand_or_by_the_next(
    watched, bag, give_gradients, opened
) -> None:
    model = bag()
    first = torch.optim.SGD([model.tall], lr=0.1)
    second = torch.optim.SGD([model.wide], lr=0.2)
    with watched(model, [first, second]) as recorder:
        for step in range(4):
            give_gradients(model, step)
            first.step()
            if step == 2:
                second.step()
            if step == 0:
                recorder.advance()
        assert recorder.step == 3
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert trace.steps("wide").tolist() == [2]


def test_one_optimizer_per_parameter_in_the_backward_pass(watched, bag, opened) -> None:
    model = bag()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def apply(p: torch.nn.Parameter) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(apply)
    with watched(model, list(optimizers.values())) as recorder:
        for _ in range(3):
            sum(p.square().sum() for p in model.parameters()).backward()
        assert recorder.step == 3
    trace = opened()
    assert all(trace.steps(name).tolist() == [0, 1, 2] for name in ("tall", "wide", "row"))


def test_something_that_is_no_optimizer_is_stood_around_by_hand(watched, bag, opened) -> None:
    class Rule:
        def __init__(self, params: Any) -> None:
            self.param_groups = [{"params": list(params), "lr": 0.5}]

    model = bag()
    with watched(model, Rule(model.parameters())) as recorder:
        for _ in range(2):
            with recorder.applying(), torch.no_grad():
                for p in model.parameters():
                    p.sub_(torch.ones_like(p), alpha=0.5)
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1]
    assert (trace.matrix(1, "tall") == 1.0).all()


def test_scalars_stand_beside_the_step_that_ended_last(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, every=2) as recorder:
        for step in range(3):
            train(model, optimizer, [step])
            recorder.log(loss=torch.tensor(step + 0.5), tokens=step)
        recorder.log(step=7, late=1.0)
    trace = opened()
    loss = trace.scalars("loss").select(["step", "value"]).to_pylist()
    assert loss == [{"step": step, "value": step + 0.5} for step in range(3)]
    assert trace.scalars("late")["step"].to_pylist() == [7]
    seconds = trace.scalars("capture_seconds")
    assert seconds["step"].to_pylist() == [0, 2]
    assert all(value > 0 for value in seconds["value"].to_pylist())
    elapsed = trace.scalars("elapsed_seconds")
    assert elapsed["step"].to_pylist() == [0, 1, 2, 7]
    assert elapsed["value"].to_pylist() == sorted(elapsed["value"].to_pylist())
    shares = trace.scalars("capture_share")["value"].to_pylist()
    assert all(0 < share < 1 for share in shares)


def test_what_is_no_number_is_left_out_and_said_once(watched, bag, train, opened, caplog) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, every=1) as recorder:
        for step in range(3):
            train(model, optimizer, [step])
            recorder.log(loss=torch.ones(2), text="none", tokens=step)
    assert recorder.failure is None
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2]
    assert trace.scalars("tokens").num_rows == 3
    assert trace.scalars("loss").num_rows == 0
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert len(said) == 2


def test_a_stage_that_the_optimizer_does_not_yield_is_said_once(
    watched, bag, train, caplog
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stages = ("momentum", "ns_input", "update")
    with watched(model, optimizer, every=1, stages=stages):
        train(model, optimizer, range(3))
    said = [record.getMessage() for record in caplog.records if "is not recorded" in record.message]
    assert len(said) == 2
    assert "register_state_reader" in said[0]
    assert "optgeom.hooks.tap(parameter, 'ns_input', tensor)" in said[1]
