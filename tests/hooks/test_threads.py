"""Threads: ours keeps to one core, and those of the run may be any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from optgeom.geometry.threads import use_one_thread


def _in_a_thread(call: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def _held() -> int:
    assert use_one_thread()
    x = torch.ones(512, 512)
    assert float((x @ x).sum()) == 512.0**3
    return torch.get_num_threads()


def test_only_the_calling_thread_is_held_to_one() -> None:
    mine, new = torch.get_num_threads(), _in_a_thread(torch.get_num_threads)
    assert _in_a_thread(_held) == 1
    assert torch.get_num_threads() == mine
    assert _in_a_thread(torch.get_num_threads) == new


def test_a_step_in_another_thread_than_watch_is_captured(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        thread = threading.Thread(target=train, args=(model, optimizer, range(3)))
        thread.start()
        thread.join()
        train(model, optimizer, [3])
        assert recorder.step == 4
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2, 3]
    assert set(trace.metrics()["status"].to_pylist()) == {"ok"}
    assert set(trace.metrics()["source"].to_pylist()) == {"dispatch"}


def test_runs_in_threads_of_their_own_do_not_see_each_other(
    watched, bag, train, opened, tmp_path
) -> None:
    """Two that are watched and one that is not, at the same time: all keep their bits."""
    names = ("a", "b", "plain")
    truth = {}
    for seed, name in enumerate(names):
        model = bag(seed=seed)
        train(model, torch.optim.AdamW(model.parameters(), lr=0.1), range(30))
        truth[name] = model.wide.detach().clone()

    models = {name: bag(seed=seed) for seed, name in enumerate(names)}
    optimizers = {name: torch.optim.AdamW(m.parameters(), lr=0.1) for name, m in models.items()}
    recorders = [
        watched(models[name], optimizers[name], out=tmp_path / name, every=every)
        for name, every in (("a", 1), ("b", 3))
    ]
    together = threading.Barrier(3)

    def run(name: str) -> None:
        together.wait()
        train(models[name], optimizers[name], range(30))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for recorder in recorders:
        assert recorder.step == 30
        assert recorder.failure is None
        recorder.close()
    for name in names:
        assert torch.equal(models[name].wide, truth[name])
    for name, every in (("a", 1), ("b", 3)):
        trace = opened(name)
        assert trace.steps("wide").tolist() == list(range(0, 30, every))
        assert set(trace.metrics()["status"].to_pylist()) == {"ok"}


def test_optimizers_of_one_recorder_may_step_at_the_same_time(watched, bag, train, opened) -> None:
    """As in a backward pass over several devices: each is captured, the step ends with the last."""
    inside = threading.Barrier(2)

    class Meeting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            inside.wait(20)  # both are in their steps before either goes on
            return super().step(closure)

    model = bag()
    optimizers = [Meeting([model.tall], lr=0.1), Meeting([model.wide], lr=0.1)]
    with watched(model, optimizers, every=2) as recorder:
        for step in range(4):
            give = [(model.tall, 1.0 + step), (model.wide, 2.0 + step)]
            for p, value in give:
                p.grad = torch.full_like(p, value)
            threads = [threading.Thread(target=one.step) for one in optimizers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert recorder.step == step + 1
        assert recorder.failure is None
    trace = opened()
    for name, start in (("tall", 1.0), ("wide", 2.0)):
        assert trace.steps(name).tolist() == [0, 2]
        assert (abs(trace.matrix(2, name) - start - 2) < 1e-6).all()
