"""``optgeom train --nproc``: several ranks from one command, ended together whatever ends one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optgeom.traces.store import open_trace

SETTINGS = {
    "model.width": 16,
    "model.heads": 2,
    "model.blocks": 2,
    "data.batch": 8,
    "schedule.warmup": 2,
    "device": "cpu",
}
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """``start(steps, *more)``: the command under way in an empty folder; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(steps: int, *more: str) -> subprocess.Popen[str]:
        flags = [w for k, v in SETTINGS.items() for w in ("--set", f"{k}={v}")]
        flags += ["--set", f"schedule.steps={steps}", "--checkpoints", "kept", *more]
        command = [sys.executable, "-m", "optgeom", "train", "--nproc", "2", "--out", "run"]
        process = subprocess.Popen(
            [*command, *flags],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def children(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in text.split()]


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.1)


def test_two_ranks_train_to_the_end_and_go_on_from_there(start, tmp_path: Path) -> None:
    first = start(4)
    out = first.communicate(timeout=90)[0]
    assert first.returncode == 0, out
    assert re.search(r"run: 0\.0\d M weights, .* trace in run", out)
    assert open_trace(str(tmp_path / "run")).info.world_size == 2
    refused = start(8)
    out = refused.communicate(timeout=90)[0]
    assert refused.returncode == 2
    assert out.count("holds the checkpoints of a run: resume it") == 1
    resumed = start(8, "--resume")
    out = resumed.communicate(timeout=90)[0]
    assert resumed.returncode == 0, out
    assert open_trace(str(tmp_path / "run")).last_step == 7


def test_a_terminated_job_leaves_a_checkpoint(start, tmp_path: Path) -> None:
    job = start(100_000)
    wait_for(tmp_path / "run" / "run.json")
    time.sleep(3)
    job.send_signal(signal.SIGTERM)
    out = job.communicate(timeout=60)[0]
    assert job.returncode == 130, out
    assert "stopped after a whole step; checkpoint in kept, go on with --resume" in out
    assert (tmp_path / "kept" / "latest").is_file()
    assert open_trace(str(tmp_path / "run")).closed


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_killed_rank_ends_the_job_with_a_message(start, tmp_path: Path) -> None:
    job = start(100_000)
    wait_for(tmp_path / "run" / "run.json")
    time.sleep(2)
    os.kill(children(job)[-1], signal.SIGKILL)
    out = job.communicate(timeout=60)[0]
    assert job.returncode == 1, out
    assert re.search(r"optgeom: rank \d was killed by signal 9, and the others were stopped", out)


def test_ranks_that_torchrun_has_started_start_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optgeom", "train", "--nproc", "2", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "leave out --nproc under torchrun" in done.stderr
