"""Dominant and dormant neurons against counting them one by one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.figures import neuron_map
from optgeom.traces.errors import NotCaptured
from optgeom.traces.store import Trace, Traces, open_trace

DOWN = "blocks.0.mlp.down.weight"
UP = "blocks.1.mlp.up.weight"
Opener = Callable[[Any], Trace]


@pytest.fixture(scope="module")
def opened(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Writes a run of given norms, captured every 10 steps, and opens it."""

    def write(norms: Any) -> Trace:
        out = tmp_path_factory.mktemp("norms") / "run"
        fake.write_arrays(out, range(0, 10 * len(norms), 10), norms=norms)
        return open_trace(out)

    return write


def _ranked(norms: Any) -> list[int]:
    return sorted(range(len(norms)), key=lambda neuron: (-norms[neuron], neuron))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda k: st.integers(2, 9).flatmap(
            lambda m: st.lists(
                st.lists(st.integers(0, 4), min_size=m, max_size=m), min_size=k, max_size=k
            )
        )
    ),
    st.integers(1, 6),
)
def test_neurons_are_ranked_ties_by_number(
    opened: Opener, rows: list[list[int]], count: int
) -> None:
    norms = np.array(rows, dtype=np.float64)
    what = neuron_map.extremes(opened(norms), DOWN, count=count)
    total = norms.shape[1]
    if not norms[-1].any():
        assert what.step is None
        assert what.neuron.size == 0
        return
    order = _ranked(norms[-1])
    ups, downs = min(count, (total + 1) // 2), min(count, total // 2)
    assert what.neuron.tolist() == order[:ups] + order[total - downs :][::-1]
    assert len(set(what.neuron.tolist())) == ups + downs
    assert what.rank.tolist() == [order.index(one) + 1 for one in what.neuron.tolist()]
    assert what.which == ("dominant",) * ups + ("dormant",) * downs
    usable = [row for row in norms if row.any()]
    assert what.captures == len(usable)
    for place, neuron in enumerate(what.neuron.tolist()):
        assert what.norm[place] == norms[-1, neuron]
        assert what.ratio[place] == pytest.approx(norms[-1, neuron] / norms[-1].mean())
        mean = np.mean([row[neuron] / row.mean() for row in usable])
        assert what.mean_ratio[place] == pytest.approx(mean)
        among = [
            _ranked(row)[:ups] if place < ups else _ranked(row)[ups - total :][-downs:]
            for row in usable
        ]
        assert what.times[place] == sum(neuron in one for one in among)


def test_the_nearest_earlier_capture_is_used(traces: Traces) -> None:
    trace = traces["muon"]
    what = neuron_map.extremes(trace, UP, 25, count=5)
    assert what.step == 20
    norms = trace.neuron_norms(20, UP)
    assert what.neuron[0] == norms.argmax()
    assert what.neuron[5] == norms.argmin()
    assert what.total == 64
    assert what.captures == 5
    assert neuron_map.extremes(trace, UP).step == 40


def test_where_there_is_nothing(traces: Traces, opened: Opener) -> None:
    trace = traces["muon"]
    assert neuron_map.extremes(trace, UP, -1).step is None
    assert neuron_map.extremes(trace, UP, stage="weight").neuron.size == 0
    with pytest.raises(NotCaptured, match="did you mean"):
        neuron_map.extremes(trace, "blocks.1.mlp.upp.weight")
    diverged = opened(np.array([[1.0, 2.0], [np.nan, np.nan]]))
    what = neuron_map.extremes(diverged, DOWN)
    assert (what.step, what.total, what.neuron.size) == (None, 2, 0)
    assert neuron_map.extremes(diverged, DOWN, 0).neuron.tolist() == [1, 0]
