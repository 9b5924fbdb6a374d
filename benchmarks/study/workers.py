"""Processes that train side by side, and end with the study."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch


class Busy(RuntimeError):
    """Another study is at work in the same folder."""


@contextmanager
def workers(count: int, folder: Path) -> Iterator[Executor]:
    """Start them; where the study is ended, by TERM too, they are at once.

    Args:
        count: Of processes.
        folder: Of the study; one study at a time is at work in it.

    Raises:
        Busy: The folder is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"another study is at work in {folder}: wait for it, or give --runs another folder"
            ) from None
        before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
        spawn = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(count, spawn, initializer=_prepare)
        try:
            yield executor
        except BaseException:
            # what a worker trains would be waited for otherwise
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    """End the workers and this process, at once.

    An exception here could come between a lock's taking and its `with`, and whoever waits for the
    executor would wait forever. Results are whole files, so that there is nothing to tidy up.
    """
    for process in multiprocessing.active_children():
        process.terminate()
    sys.stdout.flush()
    os._exit(128 + number)


def _prepare() -> None:
    # runs side by side must not fight for cores, nor depend on their number
    torch.set_num_threads(1)
