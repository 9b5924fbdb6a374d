"""The background thread's queue: bounded, and full by setting a loss that is counted or a wait."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import optgeom.hooks.records
from optgeom.hooks.worker import Worker


def blocked(wait: bool, capacity: int = 10) -> tuple[Worker, threading.Event, list[int]]:
    """A worker whose first job runs until the event is set."""
    worker = Worker(capacity, lambda error: None, wait=wait)
    go, done = threading.Event(), list[int]()
    started = threading.Event()

    def first() -> None:
        started.set()
        go.wait(20)

    assert worker.submit(first, 4)
    assert started.wait(20)
    return worker, go, done


def test_a_full_queue_drops_and_counts() -> None:
    worker, go, done = blocked(wait=False)
    accepted = [worker.submit(lambda i=i: done.append(i), 3) for i in range(5)]
    assert accepted == [True, True, False, False, False]  # 4 + 3 + 3 bytes of 10
    assert worker.dropped == 3
    go.set()
    worker.close()
    assert done == [0, 1]
    assert (worker.offered, worker.done) == (19, 10)


def test_a_full_queue_makes_the_caller_wait_and_loses_nothing() -> None:
    worker, go, done = blocked(wait=True)

    def submit() -> None:
        for i in range(20):
            assert worker.submit(lambda i=i: done.append(i), 3)

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert worker._held <= 10
    go.set()
    thread.join(20)
    worker.close()
    assert done == list(range(20))
    assert worker.dropped == 0
    assert worker.waited > 0


@pytest.mark.parametrize("wait", [False, True])
def test_a_job_larger_than_the_queue_passes_an_empty_one(wait: bool) -> None:
    worker = Worker(10, lambda error: None, wait=wait)
    done: list[int] = []
    assert worker.submit(lambda: done.append(1), 100)
    worker.close()
    assert done == [1]


def test_after_a_failure_nobody_waits_and_the_rest_is_counted() -> None:
    errors: list[Exception] = []
    worker = Worker(10, errors.append, wait=True)
    worker.submit(lambda: 1 / 0, 8)  # type: ignore[arg-type, return-value]
    for _ in range(5):
        worker.submit(lambda: None, 8)
    worker.close()
    assert [type(one) for one in errors] == [ZeroDivisionError]
    assert not worker.submit(lambda: None, 1)
    assert worker.dropped > 0


def test_a_waiting_caller_is_let_go_when_the_worker_is_closed() -> None:
    worker, go, _ = blocked(wait=True)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(worker.submit(lambda: None, 9)))
    thread.start()
    closing = threading.Thread(target=worker.close)
    closing.start()
    go.set()
    thread.join(20)
    closing.join(20)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("when_full", "budget", "waits"),
    [(None, None, True), (None, 0.5, False), ("drop", None, False), ("wait", 0.5, True)],
)
def test_the_setting_decides_for_the_run(
    when_full: Any, budget: Any, waits: bool, watched, bag, train, opened, monkeypatch
) -> None:
    monkeypatch.setattr("optgeom.hooks.recorder.WAITING_BYTES", 1)  # one matrix at a time
    measure = optgeom.hooks.records.measure_spectrum
    held = threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        held.wait(0.02 if waits else 20)
        return measure(*args, **kwargs)

    monkeypatch.setattr(optgeom.hooks.records, "measure_spectrum", slow)
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, every=1, when_full=when_full, budget=budget) as recorder:
        recorder._budget.share = None  # the queue alone decides
        train(model, optimizer, range(4))
        held.set()
    trace = opened()
    assert trace.info.capture["when_full"] == ("wait" if waits else "drop")
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    measured = sum(len(trace.steps(n, table="spectra")) for n in ("tall", "wide", "row"))
    dropped = trace.scalars("rows_left_out.queue")["value"][-1].as_py()
    assert measured + dropped == 12
    assert (dropped == 0) == waits
    assert recorder.failure is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_died() -> None:
    worker, go, done = blocked(wait=True)

    def die() -> None:
        raise SystemExit

    assert worker.submit(die, 3)
    assert worker.submit(lambda: done.append(0), 3)
    waiting = [
        threading.Thread(target=worker.drain, daemon=True),
        threading.Thread(target=worker.submit, args=(lambda: done.append(1), 9), daemon=True),
    ]
    for one in waiting:
        one.start()
    go.set()
    for one in waiting:
        one.join(20)
        assert not one.is_alive()
    assert not worker.submit(lambda: done.append(2), 1)
    worker.close()
    assert done == []
