"""The same numbers from threads, processes and a cluster; what a killed worker costs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

import optgeom
from optgeom.geometry.analysis.engine import Room
from optgeom.geometry.analysis.units import pending
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
    assert not [one.name for one in threading.enumerate() if one.name.startswith("optgeom")]


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
    # where two fit on four cores, each has two
    assert room.threads_of_each(units) == 2
    assert Room(4, 100 * largest).threads_of_each(units) == 1
    assert Room(2, 1).admits(units[0], [])
