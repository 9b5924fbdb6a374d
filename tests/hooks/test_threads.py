"""The measuring thread keeps to one core; nobody else's number of threads changes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from optgeom.hooks.threads import use_one_thread


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
