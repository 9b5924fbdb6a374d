"""Workers of the study: they end with it, and two studies do not share a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.study.trials import ROOT
from benchmarks.study.workers import Busy, workers

SLEEPS = """
import os, sys, time
from pathlib import Path
from benchmarks.study.workers import workers

def work(folder):
    Path(folder, f"worker-{os.getpid()}").touch()
    time.sleep(60)

if __name__ == "__main__":
    with workers(1, Path(sys.argv[1])) as executor:
        executor.submit(work, sys.argv[1])
        executor.submit(work, sys.argv[1]).result()
"""


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_ended_leaves_no_worker(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text(SLEEPS)
    folder = tmp_path / "study"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "errors").open("w") as errors:
        study = subprocess.Popen(
            [sys.executable, str(script), str(folder)], env=environment, stderr=errors
        )
    try:
        end = time.monotonic() + 60
        while not (found := list(folder.glob("worker-*"))) and time.monotonic() < end:
            time.sleep(0.1)
        (worker,) = (int(one.name.removeprefix("worker-")) for one in found)
        study.send_signal(how)
        assert study.wait(timeout=30) == 128 + how
    finally:
        study.kill()
        study.wait()
    end = time.monotonic() + 10
    while lives(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not lives(worker)
    assert len(list(folder.glob("worker-*"))) == 1  # what waited was not begun


def test_one_study_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    with (
        workers(1, tmp_path),
        pytest.raises(Busy, match="give --runs another folder"),
        workers(1, tmp_path),
    ):
        pass
    with workers(1, tmp_path) as executor:
        assert executor.submit(abs, -1).result() == 1
