"""Forks, signals, ends of the process: the trace holds what was flushed, and says how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import optgeom

SCRIPT = """
import os, sys, time, torch, optgeom
torch.set_num_threads(1)
model = torch.nn.Linear(6, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rec = optgeom.watch(model, optimizer, sys.argv[1], every=1, updates_every=1, budget=None)
def train(steps):
    for _ in range(steps):
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


ENDS = {
    "forgotten": ("train(3)", 0, None, True),
    "exit": ("train(3); sys.exit(3)", 3, None, True),
    "raised": ("train(3); raise ValueError('on purpose')", 1, "ValueError: on purpose", False),
    "in-with": ("with rec:\n train(3)\n raise ValueError('on purpose')", 1, "ValueError", False),
    "in-thread": (
        "import threading\nt = threading.Thread(target=train, args=(3,)); t.start(); t.join()",
        0,
        None,
        True,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_the_interpreter_closes_the_trace(name: str, tmp_path: Path) -> None:
    code, status, failed, closed = ENDS[name]
    done = run(tmp_path / "run", code)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("3 captures of 1 layer") == 1
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed == closed
    assert (trace.failed or "").startswith(failed or "")
    assert (trace.failed is None) == (failed is None)
    (layer,) = trace.layers
    assert trace.steps(layer.name).tolist() == [0, 1, 2]
    assert trace.steps(layer.name, table="updates").tolist() == [0, 1, 2]


@pytest.mark.parametrize("context", [True, False])
def test_ctrl_c_passes_through_and_closes_the_trace(context: bool, tmp_path: Path) -> None:
    # a suite that was started in the background of a shell ignores the signal, and so would this
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
with rec if {context} else open(os.devnull):
    train(20)
    print("going", flush=True)
    while True:
        train(1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT + code, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "going\n"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr
    assert "capture stopped" not in stderr
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert [one.attempt for one in trace.info.attempts] == [0]
    steps = trace.steps(trace.layers[0].name).tolist()
    assert steps == list(range(len(steps)))
    assert len(steps) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_killed_run_keeps_what_was_flushed(end: str, tmp_path: Path) -> None:
    done = run(tmp_path / "run", f"train(4); time.sleep(3); train(1); {end}")
    assert done.returncode in (0, -signal.SIGKILL)
    trace = optgeom.open_trace(tmp_path / "run")
    assert not trace.closed
    assert trace.failed is None
    assert trace.steps(trace.layers[0].name).tolist()[:4] == [0, 1, 2, 3]
    again = SCRIPT.replace("budget=None", "budget=None, start_step=4") + "train(2)"
    subprocess.run([sys.executable, "-c", again, str(tmp_path / "run")], check=True)
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert trace.steps(trace.layers[0].name).tolist() == [0, 1, 2, 3, 4, 5]


class Rows(Dataset[torch.Tensor]):
    """Holds what a trainer's dataset may hold by accident: the recorder, and the optimizer."""

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        for one in self.held:
            if isinstance(one, optgeom.Recorder):
                one.log(from_worker=1.0)
                one.close()
        return torch.full((3,), float(index))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_workers_leave_the_recorder_to_the_parent(
    method: str, watched, bag, train, opened
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        data = Rows(recorder)
        loader = DataLoader(data, num_workers=2, multiprocessing_context=method)
        for epoch in range(2):
            assert sum(float(batch.sum()) for batch in loader) == 3 * 28
            train(model, optimizer, [epoch + 1])
            recorder.log(loss=1.0)
        assert recorder.failure is None
    trace = opened()
    assert trace.closed
    assert trace.steps("tall").tolist() == [0, 1, 2]
    assert trace.scalars("loss").num_rows == 2
    assert trace.scalars("from_worker").num_rows == 0


def in_a_fork(child: Any) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = int(child())
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_that_trains_trains_unwatched(watched, bag, train, opened) -> None:
    """Not even where another thread held the recorder's lock at the fork."""
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, when_full="wait") as recorder:
        train(model, optimizer, [0])
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with recorder._lock, recorder._worker._room:
                held.set()
                go.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(20)

        def child() -> int:
            before = model.tall.detach().clone()
            recorder.capture_next()
            train(model, optimizer, range(1, 4))
            recorder.advance()
            recorder.close()
            return int(torch.equal(model.tall, before) or "step" in vars(optimizer))

        try:
            assert in_a_fork(child) == 0
        finally:
            go.set()
            holder.join()
        train(model, optimizer, [1])
    trace = opened()
    assert trace.closed
    assert trace.steps("tall").tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_may_watch_a_run_of_its_own(watched, bag, train, opened, tmp_path) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])

        def child() -> int:
            with optgeom.watch(model, optimizer, tmp_path / "child", every=1, budget=None) as own:
                train(model, optimizer, range(1, 3))
                return int(own.failure is not None)

        assert in_a_fork(child) == 0
        train(model, optimizer, [1])
    assert opened().steps("tall").tolist() == [0, 1]
    assert opened("child").steps("tall").tolist() == [0, 1]
