from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import find
from optgeom.traces.info import RunInfo
from optgeom.traces.store import Trace, open_traces
from optgeom.traces.writer import TraceWriter


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = Cache(100)
    for name in "abc":
        cache.put(name, name.upper(), 30)
    assert cache.get("a") == "A"
    cache.put("d", "D", 35)
    assert [cache.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert cache.nbytes == 95


def test_a_new_value_takes_the_place_of_the_old() -> None:
    cache = Cache(100)
    cache.put("a", 1, 60)
    cache.put("a", 2, 70)
    assert cache.get("a") == 2
    assert cache.nbytes == 70


def test_what_is_larger_than_all_of_it_is_not_kept() -> None:
    cache = Cache(100)
    cache.put("a", 1, 60)
    cache.put("b", 2, 40)
    cache.put("a", 3, 101)
    assert [cache.get(name) for name in "ab"] == [None, 2]
    assert cache.nbytes == 40


@pytest.mark.parametrize("limit", [0, 300, 1 << 20])
def test_a_trace_answers_the_same_whatever_is_kept(trace_path: Path, limit: int) -> None:
    cache = Cache(limit)
    trace, other = Trace(find(trace_path), cache), Trace(find(trace_path))
    for _ in range(2):
        for layer in trace.layers:
            for stage in trace.stages:
                found, expected = trace.neurons(layer.name, stage), other.neurons(layer.name, stage)
                assert np.array_equal(found[1], expected[1])
                singular = trace.spectra(layer.name, stage)[1]
                assert np.array_equal(singular, other.spectra(layer.name, stage)[1])
        assert np.array_equal(trace.grid("lr").values, other.grid("lr").values)
        assert trace.metrics().equals(other.metrics())
        assert trace.scalars().equals(other.scalars())
        assert cache.nbytes <= limit


def test_several_threads_get_what_one_gets(trace_path: Path) -> None:
    def ask(trace: Trace) -> list[object]:
        return [
            trace.grid("neuron_norm_cv").values.tolist(),
            trace.words("status").words,
            [trace.neurons(layer.name)[1].tolist() for layer in trace.layers],
            trace.metrics().to_pylist(),
            trace.scalars("loss").to_pylist(),
            trace.last_step,
        ]

    expected = ask(Trace(find(trace_path)))
    for limit in (0, 2000, 1 << 20):
        trace = Trace(find(trace_path), Cache(limit))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, [trace] * 8)) == [expected] * 8


def test_traces_of_a_folder_share_one(trace_path: Path, info: RunInfo) -> None:
    TraceWriter(trace_path.parent / "b", info).close()
    traces = open_traces(trace_path.parent)
    assert traces["a"].cache is traces["b"].cache
    assert Trace(find(trace_path)).cache is not traces["a"].cache


def test_an_error_is_shared_with_those_who_waited() -> None:
    cache, begun, calls = Cache(), threading.Event(), []

    def fail() -> int:
        calls.append(1)
        begun.set()
        time.sleep(0.2)
        raise OSError("no answer")

    def ask() -> str:
        try:
            cache.made("key", fail, lambda _: 1)
        except OSError as error:
            return str(error)
        return "nothing"

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask)
        begun.wait(5)
        others = [pool.submit(ask) for _ in range(3)]
        assert [one.result(5) for one in (first, *others)] == ["no answer"] * 4
    assert len(calls) == 1
    assert cache.made("key", lambda: 7, lambda _: 1) == 7


def test_another_makes_what_an_interrupted_one_left() -> None:
    cache, begun, go = Cache(), threading.Event(), threading.Event()

    def interrupted() -> int:
        begun.set()
        go.wait(5)
        raise KeyboardInterrupt

    def ask() -> int:
        with contextlib.suppress(KeyboardInterrupt):
            return cache.made("key", interrupted, lambda _: 1)
        return -1

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        begun.wait(5)
        other = pool.submit(cache.made, "key", lambda: 7, lambda _: 1)
        go.set()
        assert (first.result(5), other.result(5)) == (-1, 7)


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgeom.traces.files.cache._PATIENCE", 0.05)
    cache, begun, go = Cache(), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        go.wait(5)
        return 6

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.made, "key", slow, lambda _: 1)
        begun.wait(5)
        assert pool.submit(cache.made, "key", lambda: 7, lambda _: 1).result(5) == 7
        go.set()
        assert first.result(5) == 6
