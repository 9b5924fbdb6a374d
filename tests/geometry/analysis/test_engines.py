"""The same numbers from threads, processes and a cluster; what a killed worker costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import optgeom
from optgeom.geometry.analysis.engine import Room
from optgeom.geometry.analysis.threads import on_threads
from optgeom.geometry.analysis.units import pending
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
from optgeom.traces.errors import OptgeomError
from tests.geometry.analysis.cases import Matrices, write
from tests.traces.objects import Objects

pytestmark = pytest.mark.usefixtures("several_units")


def _numbers(trace: optgeom.Trace) -> list[dict]:
    return trace.metrics().drop_columns(["run"]).to_pylist()


@pytest.fixture
def truth(tmp_path: Path, matrices: Matrices) -> list[dict]:
    trace = write(tmp_path / "truth", matrices)
    optgeom.analyze(trace)
    return _numbers(trace)


def test_threads_leave_the_process_as_it_was(tmp_path: Path, matrices: Matrices) -> None:
    def blas() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before, of_torch = blas(), torch.get_num_threads()
    seen: list[list[int]] = []
    trace = write(tmp_path / "run", matrices)
    optgeom.analyze(trace, progress=lambda done, total: seen.append(blas()))
    assert blas() == before
    assert torch.get_num_threads() == of_torch
    assert {1} == {number for numbers in seen[1:-1] for number in numbers}
    ours = ("optgeom-analysis", "optgeom-reading")
    assert not [one.name for one in threading.enumerate() if one.name.startswith(ours)]


@pytest.mark.slow
def test_processes_give_the_same(tmp_path: Path, matrices: Matrices, truth: list[dict]) -> None:
    trace = write(tmp_path / "run", matrices)
    told: list[tuple[int, int]] = []
    optgeom.analyze(trace, workers=2, progress=lambda done, total: told.append((done, total)))
    assert _numbers(trace) == truth
    assert told[0] == (0, 30)
    assert told[-1] == (30, 30)
    assert optgeom.analyze(trace, workers=2).num_rows == 0


@pytest.mark.slow
def test_a_killed_process_is_replaced(
    tmp_path: Path, matrices: Matrices, truth: list[dict]
) -> None:
    trace = write(tmp_path / "run", matrices)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            worker = active_children()[0]
            killed.append(worker.pid)
            worker.kill()

    optgeom.analyze(trace, workers=2, progress=kill)
    assert killed
    assert _numbers(trace) == truth


@pytest.mark.slow
def test_a_process_that_dies_between_two_units_loses_none(
    tmp_path: Path, matrices: Matrices, truth: list[dict]
) -> None:
    """Nobody waits for it then: the next unit is handed to a pool that is broken."""
    trace = write(tmp_path / "run", matrices)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            for worker in active_children():
                killed.append(worker.pid or 0)
                worker.kill()
                worker.join()

    assert optgeom.analyze(trace, workers=1, progress=kill).num_rows == 30
    assert killed
    assert _numbers(trace) == truth


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, matrices: Matrices) -> None:
    write(tmp_path / "run", matrices)
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from multiprocessing import active_children\n"
        "import optgeom\n"
        "from optgeom.geometry.analysis import units\n"
        "units.LONGEST_UNIT, units.GROUP_BYTES = 1, 1\n"
        "def tell(done, total):\n"
        "    if done:\n"
        "        print(*(one.pid for one in active_children()), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    optgeom.analyze(optgeom.open_trace(sys.argv[1]), workers=2, progress=tell)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path: Path, matrices: Matrices) -> None:
    write(tmp_path / "run", matrices)
    script = tmp_path / "script.py"
    script.write_text(
        "import optgeom, sys\noptgeom.analyze(optgeom.open_trace(sys.argv[1]), workers=2)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]


def test_two_analyses_at_once_leave_blas_as_it_was(tmp_path: Path, matrices: Matrices) -> None:
    def blas() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = blas()
    first, second = (
        on_threads(pending(write(tmp_path / n, matrices)), _none, Room(1, 1)) for n in "ab"
    )
    next(first)
    next(second)
    first.close()
    assert set(blas()) == {1}
    second.close()
    assert blas() == before


def _none(step: int, keys: Any) -> dict:
    return {}


@pytest.mark.slow
def test_large_matrices_give_the_same_bits_elsewhere(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Of a size at which BLAS would use more threads than one, if it had them."""
    layer = LayerInfo("up", "mlp.up", 0, (700, 900), "float32", "opt", 0, "muon")
    found = []
    for name, how in (("threads", {}), ("process", {"workers": 1})):
        rng = np.random.default_rng(5)
        with TraceWriter(tmp_path / name, RunInfo(name, layers=(layer,), columns={})) as writer:
            cell = Cell(0, "opt", layer.name, layer.kind, layer.block, "update")
            writer.update(cell, rng.standard_normal(layer.shape).astype(np.float32))
        trace = optgeom.open_trace(tmp_path / name)
        optgeom.analyze(trace, **how)
        found.append(_numbers(trace))
    assert found[0] == found[1]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Dask cluster of two processes on the loopback."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_gives_the_same(
    tmp_path: Path, matrices: Matrices, truth: list[dict], cluster: Any
) -> None:
    trace = write(tmp_path / "run", matrices)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            killed.append(cluster.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    scheduler = cluster.scheduler_address
    optgeom.analyze(trace, scheduler=scheduler, progress=kill)
    assert killed
    assert _numbers(trace) == truth
    assert optgeom.analyze(trace, scheduler=scheduler).num_rows == 0


def test_a_trace_in_an_object_store_gives_the_same(
    tmp_path: Path, matrices: Matrices, truth: list[dict], objects: Objects
) -> None:
    write(tmp_path / "run", matrices)
    objects.upload(tmp_path / "run", "analyzed")
    trace = optgeom.open_trace(objects.uri("analyzed"))
    assert optgeom.analyze(trace).num_rows == 30
    assert _numbers(trace) == truth
    assert len([name for name in objects.names("analyzed") if "/derived/" in name]) == 1


@pytest.mark.slow
def test_a_cluster_reads_an_object_store(
    tmp_path: Path, matrices: Matrices, truth: list[dict], objects: Objects, cluster: Any
) -> None:
    write(tmp_path / "run", matrices)
    objects.upload(tmp_path / "run", "clustered")
    trace = optgeom.open_trace(objects.uri("clustered"))
    optgeom.analyze(trace, scheduler=cluster.scheduler_address)
    assert _numbers(trace) == truth


def test_no_scheduler_is_named(
    tmp_path: Path, matrices: Matrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optgeom.geometry.analysis.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(OptgeomError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        optgeom.analyze(write(tmp_path / "run", matrices), scheduler="tcp://127.0.0.1:1")


def test_memory_bounds_what_runs_at_once(tmp_path: Path, matrices: Matrices) -> None:
    units = pending(write(tmp_path / "run", matrices))
    largest = max(unit.nbytes for unit in units)
    room = Room(4, 2 * largest)
    assert room.admits(units[0], [])
    assert room.admits(units[0], units[1:2])
    assert not room.admits(units[0], [max(units, key=lambda unit: unit.nbytes)] * 2)
    assert Room(2, 100 * largest).admits(units[0], units[1:2])
    assert not Room(1, 100 * largest).admits(units[0], units[1:2])
    assert Room(2, 1).admits(units[0], [])
