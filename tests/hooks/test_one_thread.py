"""The measuring thread gets no team of its own, whatever number of threads the user has set."""

import subprocess
import sys

import pytest

COUNT = """
import os, threading
import torch
{setting}
from optgeom.geometry.threads import use_one_thread

def team():
    return len(os.listdir("/proc/self/task"))

def measure():
    if {held}:
        use_one_thread()
    x = torch.randn(256, 256, dtype=torch.float64)
    ready[0] = team()
    torch.linalg.eigvalsh(x @ x.T)
    torch.randn(1 << 20).square().sum()
    ready[1] = team()

ready = [0, 0]
torch.randn(512, 512) @ torch.randn(512, 512)
thread = threading.Thread(target=measure)
thread.start()
thread.join()
print(ready[1] - ready[0])
"""


def new_threads(setting: str, *, held: bool) -> int:
    code = COUNT.format(setting=setting, held=held)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("setting", ["", "torch.set_num_threads(2)"])
def test_no_team_is_made(setting: str) -> None:
    assert new_threads(setting, held=True) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_thread_left_alone_makes_one() -> None:
    assert new_threads("torch.set_num_threads(2)", held=False) > 0
