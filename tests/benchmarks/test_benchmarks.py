"""Each benchmark runs with tiny settings and prints the rows and numbers that it promises."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RAW = "optgeom: raw matrices"
CLONE = "by hand: clone, difference, row norms"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def tables(printed: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, each row by its columns' names."""
    found: list[list[dict[str, str]]] = []
    names: list[str] = []
    for line in printed.splitlines():
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not names:
            names = cells
            found.append([])
        elif set(cells) != {"---"}:
            found[-1].append(dict(zip(names, cells, strict=True)))
    return found


def numbers(cell: str) -> list[float]:
    """The numbers of a cell such as "3.2 [1.0, 4.5]"."""
    values = [float(word) for word in cell.replace("[", "").replace("]", "").split(", ")[1:]]
    return [float(cell.split()[0]), *values]


@pytest.fixture
def timing(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("timing")


@pytest.mark.slow
def test_overhead_has_a_row_per_method_and_nothing_is_missing() -> None:
    few = ["--job", "tiny", "--optimizers", "adamw", "--pairs", "4", "--sessions", "1"]
    done = run("overhead.py", *few, "--tables", "steps", "--methods", RAW, CLONE)
    assert done.returncode == 0, done.stderr
    ours, by_hand = tables(done.stdout)
    assert [row["what"] for row in ours] == [RAW]
    assert [row["what"] for row in by_hand] == [CLONE]
    for row in ours + by_hand:
        assert all(map(math.isfinite, numbers(row["added, %"])))
        assert float(row["step, ms"]) >= 0
    assert [row["missing"] for row in ours] == ["0"]
    assert by_hand[0]["missing"] == ""
    assert "GFLOP/s" in done.stdout
    assert "commit" in done.stdout


@pytest.mark.slow
def test_whole_runs_state_their_share_and_their_spectra() -> None:
    few = ["--job", "tiny", "--optimizers", "normuon", "--blocks", "3"]
    done = run("overhead.py", *few, "--tables", "runs")
    assert done.returncode == 0, done.stderr
    (rows,) = tables(done.stdout)
    assert [row["settings"] for row in rows] == ["the defaults", "every=10, budget=0.01"]
    for row in rows:
        assert row["steps"] == "150"
        assert row["spectra"].endswith("of 5 layers")
        assert int(row["spectra"].split()[0]) >= 5
        for column in ("wall, %", "counted, %", "recorded, %"):
            assert all(map(math.isfinite, numbers(row[column]))), column


@pytest.mark.slow
def test_a_peer_that_is_not_there_says_why_in_its_row() -> None:
    few = ["--job", "tiny", "--optimizers", "adamw", "--pairs", "1", "--environment", sys.prefix]
    done = run("overhead.py", *few, "--tables", "peers", "--methods", "nvdlfw-inspect, gradients")
    assert done.returncode == 0, done.stderr
    ((row,),) = tables(done.stdout)
    assert "No module named 'nvdlfw_inspect'" in row["added, %"]


def test_peers_without_their_environment_are_refused_with_the_command(tmp_path: Path) -> None:
    done = run("overhead.py", "--tables", "peers", "--environment", str(tmp_path))
    assert done.returncode == 2
    assert "python benchmarks/peers.py" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs the kernel's peak of resident memory"
)
def test_memory_of_a_snapshot_grows_with_the_model() -> None:
    settings = ["--side", "256", "--optimizers", "SGD, for-loop"]
    done = run("memory.py", *settings, "--millions", "1", "5", "--methods", "snapshot")
    assert done.returncode == 0, done.stderr
    ((snapshot,),) = tables(done.stdout)
    # four bytes for each of four million parameters more are 15 MiB
    assert float(snapshot["5 M"]) - float(snapshot["1 M"]) > 10

    done = run("memory.py", *settings, "--millions", "1", "--methods", "norms")
    assert done.returncode == 0, done.stderr
    ((ours,),) = tables(done.stdout)
    assert ours["captured"] == "norms"
    assert math.isfinite(float(ours["1 M"]))


def test_dealt_matrices_travel_once_and_the_naive_form_gathers_them_everywhere() -> None:
    done = run("sharded.py", "--ranks", "2", "--shapes", "demo", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    (rows,) = tables(done.stdout)
    found = {row["optimizer"]: row for row in rows}
    assert found.keys() == {"muon", "normuon", "normuon, naive", "adamw"}
    assert float(found["normuon"]["bytes sent per weight"]) == pytest.approx(2.0, abs=0.01)
    assert float(found["adamw"]["bytes sent per weight"]) == 0.0
    state = float(found["normuon"]["state, numbers per weight"])
    assert state <= 0.51 * float(found["adamw"]["state, numbers per weight"])


def test_an_analysis_stands_beside_lapack_and_in_its_memory(tmp_path: Path) -> None:
    wanted = ("Over the bare LAPACK calls", "Beside others", "Memory")
    few = ("--preset", "demo", "--blocks", "1", "--rounds", "1")
    done = run("analysis.py", str(tmp_path), *few, "--tables", *wanted)
    assert done.returncode == 0, done.stderr
    lapack, peers, memory = tables(done.stdout)
    assert [row["what"] for row in lapack] == ["spectra alone", "every column"]
    assert all(numbers(row["over the faster"])[0] > 0 for row in lapack)
    assert "svdvals" in peers[0]["beside"]
    assert len(memory) == 3


def test_the_gpu_report_is_checked_and_dated(tmp_path: Path) -> None:
    done = run(
        "gpu.py",
        *("--device", "cpu", "--shapes", "tiny", "--rounds", "2", "--batch", "1"),
        *("--results", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.iterdir()
    checks, steps, capture, analysis = tables(report.read_text())
    assert {row[""] for row in checks} == {"kept"}
    assert [row["optimizer"] for row in steps] == ["adamw, fused", "muon", "normuon"]
    assert [row["optimizer"] for row in capture] == ["adamw", "normuon"]
    assert all(float(row["spectrum, ms"]) > 0 for row in analysis)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_succeeds(tmp_path: Path) -> None:
    done = run("gpu.py", "--results", str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])
    assert done.stdout == "no CUDA device here: nothing was checked or measured\n"


def test_a_captured_step_is_compared_with_both_neighbours(timing: ModuleType) -> None:
    seconds = [9.0, 1.0, 5.0, 3.0, 7.0, 1.0, 9.0]
    captured = [True, False, True, False, True, False, True]
    assert timing.added(seconds, captured) == [3.0, 5.0]
    assert timing.added(seconds, [True] * 7) == []


def test_an_interval_holds_its_median_and_narrows(timing: ModuleType) -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, 400).tolist()
    few, many = timing.Interval.of(values[:20]), timing.Interval.of(values)
    assert many.low < many.median < many.high
    assert many.low < 5.0 < many.high
    assert many.high - many.low < few.high - few.low
    assert f"{timing.Interval(1.0, 0.5, 2.0, 3):.1f}" == "1.0 [0.5, 2.0]"


def test_background_counts_new_threads_and_not_the_training_thread(timing: ModuleType) -> None:
    background = timing.Background()
    busy()
    assert background.seconds == 0.0
    working, end = threading.Event(), threading.Event()

    def work() -> None:
        busy()
        working.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    working.wait()
    assert background.seconds > 0.0
    end.set()
    thread.join()


def busy() -> None:
    np.linalg.eigvalsh(np.eye(200))


def test_waits_count_the_ends_of_a_run(script: Callable[[str], ModuleType]) -> None:
    whole_run = script("whole_run")
    assert whole_run.waits([np.array([0, 10, 20]), np.array([5, 15])], 40) == (10.0, 25)
    assert whole_run.waits([np.array([0, 10]), np.array([])], 40)[1] == 40


def test_a_stopped_clock_goes_on_where_it_stood(script: Callable[[str], ModuleType]) -> None:
    now = [0.0]
    clock = script("whole_run").Clock()
    clock.now = lambda: now[0]
    assert clock() == 0.0
    now[0] = 3.0
    clock.stop()
    now[0] = 10.0
    assert clock() == 3.0
    clock.go()
    assert clock() == 3.0
    now[0] = 12.0
    assert clock() == 5.0
