"""The budget: kept, used, shared fairly between layers, and without a say in captured steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optgeom.hooks.budget import MOST_THINNING, SLACK, Budget, Spent
from optgeom.hooks.clock import Clocks, plan
from optgeom.hooks.costs import Costs

cadences = st.tuples(
    st.integers(1, 6), st.integers(1, 4), st.integers(0, 4), st.integers(1, 4)
).map(lambda c: Clocks.of(c[0], c[0] * c[1], c[0] * c[2], min(c[3], c[0] * c[1])))


def rates(clocks: list[Clocks]) -> tuple[float, float, float]:
    """Captures of all layers per step."""
    n = len(clocks)
    return (
        sum(one.norms_per_step for one in clocks) / n,
        sum(one.spectra_per_step for one in clocks) / n,
        sum(one.updates_per_step for one in clocks) / n,
    )


@given(
    st.lists(cadences, min_size=1, max_size=8),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 10.0),
    st.floats(0.0, 1.0),
    st.floats(1e-3, 0.5),
)
def test_a_run_beyond_its_share_comes_to_captures_that_keep_it(
    clocks: list[Clocks], step: float, norms: float, spectra: float, updates: float, share: float
) -> None:
    budget, slower = Budget(share), tuple(clocks)
    equal = [1 / len(clocks)] * len(clocks)
    for _ in range(200):  # one doubling per capture, as long as the run is beyond its share
        slower = budget.decide(slower, equal, 0, Spent(1.0, step, norms, spectra, updates))
    assert all(a.every % b.every == 0 for a, b in zip(slower, clocks, strict=True))
    n, s, u = rates(list(slower))
    assert norms * n <= share * step * (1 + 1e-9)
    left = share * step - norms * n
    assert (spectra * s + updates * u) / budget.thinning <= SLACK * left * (1 + 1e-9) or (
        budget.thinning == MOST_THINNING
    )
    for _ in range(40):  # and back to the edge of what fits, once it is within its share
        before = slower
        slower = budget.decide(slower, equal, 0, Spent(0.0, step, norms, spectra, updates))
        assert slower == before  # a doubled clock stays doubled
    assert budget.thinning == 1 or (
        (spectra * s + updates * u) / budget.thinning * (1 + 1e-9) >= left
    )


def test_without_a_budget_or_a_known_step_nothing_changes() -> None:
    clocks = (Clocks.of(5),)
    for budget, seconds in ((Budget(None), 1.0), (Budget(0.01), 0.0)):
        assert budget.decide(clocks, [1.0], 0, Spent(1.0, seconds, 9.0, 9.0, 9.0)) == clocks
        assert budget.thinning == 1


def test_one_noisy_measurement_changes_nothing_while_the_run_keeps_to_its_share() -> None:
    clocks, budget = (Clocks.of(5),), Budget(0.01)
    assert budget.decide(clocks, [1.0], 0, Spent(0.0099, 0.1, 9.0, 9.0, 9.0)) == clocks
    assert budget.thinning == 1
    assert budget.decide(clocks, [1.0], 0, Spent(0.011, 0.1, 9.0, 9.0, 9.0))[0].every == 10


def test_the_group_that_captures_most_is_the_one_that_slows_down() -> None:
    often, seldom = Clocks.of(1, stop=100), Clocks.of(50)
    clocks = (seldom, often, often, seldom, seldom)
    spent = Spent(0.9, 0.1, 9.0, 0.0, 0.0)
    equal = [0.2] * 5
    slower = Budget(0.01).decide(clocks, equal, 0, spent)
    assert slower == (seldom, often.slower(), often.slower(), seldom, seldom)
    # what has stopped costs nothing, and is not the one to slow down
    assert Budget(0.01).decide(clocks, equal, 100, spent)[1] == often


@dataclass
class Simulated:
    """A run of known costs under the budget."""

    share: float
    spectra_seconds: float
    affordable: float
    turns: dict[int, list[int]]

    def waits(self, since: int) -> list[int]:
        return [
            later - earlier
            for turns in self.turns.values()
            for earlier, later in pairwise(turn for turn in turns if turn >= since)
        ]


def simulate(
    share: float,
    spectra: list[float],
    clocks: list[Clocks],
    *,
    captures: int,
    step: float = 0.1,
    norms: float = 0.0,
    noise: Callable[[int], float] = lambda capture: 1.0,
) -> Simulated:
    """Train by the clock of a simulation, with the real plan, costs and budget.

    Args:
        share: the budget.
        spectra: seconds of each layer's singular values.
        clocks: of each layer.
        captures: of the first layer's clock.
        step: seconds of a step.
        norms: seconds of each capture of all norms.
        noise: by which everything of ours takes longer, by capture.
    """
    budget, costs, now = Budget(share), Costs(started=0.0), 0.0
    background = measured = 0.0
    turns: dict[int, list[int]] = {i: [] for i in range(len(spectra))}
    own = tuple(clocks)
    sizes = [
        cost * (1.05 if i % 3 else 0.95) for i, cost in enumerate(spectra)
    ]  # not quite the cost
    weights = [size / sum(sizes) for size in sizes]
    for at in range(captures * clocks[0].spectra_every):
        planned = plan(own, at, budget.thinning, whole=False)
        now += step
        costs.inside = 0.2 * step
        if planned is None:
            costs.step_ended(now)
            continue
        slow = noise(at // clocks[0].spectra_every)
        costs.ended = now
        spent = costs.spent(background)
        part = sum(weights[i] for i in planned.norms)
        costs.outside = slow * norms * part
        now += costs.outside
        costs.spectra.look(background, measured)
        measured += sum(weights[i] for i in planned.spectra)
        background += slow * sum(spectra[i] for i in planned.spectra)  # seen at the next capture
        for i in planned.spectra:
            turns[i].append(at // clocks[i].spectra_every)
        costs.capture_ended(now, part, 0.0)
        own = budget.decide(own, weights, at, spent)
    costs.ended = now
    bought = sum(len(turns[i]) * cost for i, cost in enumerate(spectra))
    return Simulated(costs.share(background), bought, share * now, turns)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=40),
    st.floats(0.3, 24.0),
    st.floats(0.0, 0.3),
    st.sampled_from([0.003, 0.01, 0.05]),
    st.integers(1, 3),
)
@example(sizes=[1.0], times=17.0, norms=0.0, share=0.003, burst=1)
def test_the_share_is_kept_and_used_and_no_layer_waits_long(
    sizes: list[float], times: float, norms: float, share: float, burst: int
) -> None:
    every, step = 5, 0.1
    allowed = share * step * every  # per capture
    wanted = times * allowed / burst / sum(sizes)
    spectra = [size * wanted for size in sizes]  # all of them take `times` what is allowed
    clocks = [Clocks.of(every, None, 0, burst)] * len(sizes)
    norms_seconds = norms * allowed / (1 + clocks[0].norms_per_step * every - 1)
    run = simulate(share, spectra, clocks, captures=600, norms=norms_seconds)
    # the first captures are whole, until what they cost is believed; then 1.1 is kept
    learning = 4 * burst * sum(spectra) / (run.affordable / share)
    assert run.share <= 1.12 * share + learning
    everything = 600 * burst * sum(spectra)
    assert run.spectra_seconds >= 0.5 * min(run.affordable, everything)
    waits = [wait for wait in run.waits(since=100) if wait]  # steps of one burst do not wait
    assert max(waits) <= 2 * sum(waits) / len(waits)


def test_groups_of_different_cadence_share_the_budget() -> None:
    clocks = [Clocks.of(2, None, 0)] * 6 + [Clocks.of(20, None, 0)] * 18
    spectra = [0.004] * 6 + [0.02] * 18
    run = simulate(0.01, spectra, clocks, captures=5000, step=0.1)
    assert run.share <= 0.0115
    assert run.spectra_seconds >= 0.5 * run.affordable
    for group in (range(6), range(6, 24)):
        waits = [
            b - a for i in group for a, b in pairwise(turn for turn in run.turns[i] if turn >= 100)
        ]
        assert max(waits) <= 2 * sum(waits) / len(waits)


def test_what_a_noisy_phase_took_comes_back() -> None:
    spectra, clocks = [0.01] * 20, [Clocks.of(5, None, 0)] * 20
    quiet, noisy = (
        simulate(0.01, spectra, clocks, captures=2000, noise=lambda c, k=k: k if c < 200 else 1.0)
        for k in (1.0, 4.0)
    )
    late = [
        sum(turn >= 1000 for turns in run.turns.values() for turn in turns)
        for run in (quiet, noisy)
    ]
    assert late[1] >= 0.9 * late[0]
    assert noisy.share <= 0.0115


def test_the_first_capture_does_not_count_as_a_cost() -> None:
    costs = Costs()
    costs.inside, costs.outside = 1.0, 100.0  # what is loaded only once
    costs.capture_ended(1.0, 1.0, 0.0)
    assert costs.spent(0.0).norms == 0.0
    costs.inside = 1.0
    costs.step_ended(3.0)
    for now in (6.0, 9.0, 12.0):
        assert costs.spent(0.0).norms == 0.0  # too few to be believed
        costs.inside, costs.outside = 1.25, 0.75
        costs.updates_seconds += 0.125  # neither raw matrices
        costs.capture_ended(now, 0.5, waited=now / 24)  # nor waiting are norms
    spent = costs.spent(0.0)
    assert spent.norms == 2 * (1.0 - 0.125 - 0.125)  # half of the layers were captured
    assert costs.total == 103.0
    assert spent.step == 2.0  # the time between steps, less what capture took of it


def spectra_of(trace: Any) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for layer in trace.layers:
        for step in trace.steps(layer.name, table="spectra").tolist():
            found.setdefault(step, set()).add(layer.name)
    return found


def test_runs_of_different_speed_share_their_captured_steps(
    watched, bag, train, opened, tmp_path, monkeypatch
) -> None:
    spent = Costs.spent
    # a machine that is busy with other things must not double this test's clock
    monkeypatch.setattr(Costs, "spent", lambda *args: replace(spent(*args), norms=0.0))
    runs: dict[str, dict[int, set[str]]] = {}
    for name, seconds in (("slow", 0.02), ("fast", 0.0)):
        model = bag(shapes={f"layer{i}": (96, 96) for i in range(8)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watched(model, optimizer, every=4, budget=0.05, out=tmp_path / name, updates_every=0):
            for step in range(80):
                train(model, optimizer, [step])
                time.sleep(seconds)
        trace = opened(name)
        steps = {layer.name: trace.steps(layer.name).tolist() for layer in trace.layers}
        assert set(map(tuple, steps.values())) == {tuple(range(0, 80, 4))}
        runs[name] = spectra_of(trace)
        left_out = sum(trace.scalars("rows_left_out.budget")["value"].to_pylist())
        captured = sum(map(len, runs[name].values()))
        assert (
            captured + left_out + trace.scalars("rows_left_out.queue")["value"][-1].as_py() == 160
        )
    assert runs["slow"][0] == runs["fast"][0] == {f"layer{i}" for i in range(8)}
    assert any(len(layers) < 8 for layers in runs["fast"].values())
    for step in range(0, 80, 4):
        slow, fast = runs["slow"].get(step, set()), runs["fast"].get(step, set())
        assert slow <= fast or fast <= slow
        for layers in (slow, fast):
            turns = {(int(name[5:]) - step // 4) % 8 for name in layers}
            assert turns in ({0}, {0, 4}, {0, 2, 4, 6}, set(range(8)), set())


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
        assert recorder._clocks[0].every > 1
    assert "norms alone exceed the budget" in caplog.text
    assert opened().info.capture["every"] == recorder._clocks[0].every
