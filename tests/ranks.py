"""Ranks of one distributed test, each a process of its own.

They are forked from a server that has imported torch once: a rank that imports it by itself takes
three seconds before its first line. `python -m tests.ranks` is that server.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_ranks(
    worker: Path,
    folder: Path,
    world: int,
    *,
    words: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 240.0,
) -> list[tuple[int, str]]:
    """Run ``WORKER FOLDER RANK WORLD`` once per rank, on one thread each, and wait for all.

    Args:
        worker: A script.
        folder: For what the ranks leave.
        world: How many ranks.
        words: Run ``WORKER FOLDER WORDS``, and say the rest as torchrun does, in the environment.
        env: More of the environment, from the first instruction on.
        timeout: Seconds after which those that still run are killed, which their code shows.

    Returns:
        Each rank's exit code, and what it printed; none is left running.
    """
    server = _server(tuple(sorted((env or {}).items())))
    assert server.stdin is not None
    assert server.stdout is not None
    arguments = None if words is None else [str(folder), *words]
    asked = {"worker": str(worker), "folder": str(folder), "world": world, "timeout": timeout}
    asked |= {"arguments": arguments, "port": _free_port()}
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    codes: list[int] = json.loads(server.stdout.readline())
    return [
        (code, _output(folder, rank).read_text(errors="replace")) for rank, code in enumerate(codes)
    ]


def assert_ended_well(ended: list[tuple[int, str]]) -> None:
    assert [code for code, _ in ended] == [0] * len(ended), "\n".join(out for _, out in ended)


def _output(folder: Path, rank: int) -> Path:
    return folder / f"printed-by-rank{rank}.txt"


@cache
def _server(env: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.ranks"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict(env)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # its input ends, and so does it
    return server


def _serve() -> None:
    """Fork what is asked for on each line, and answer with exit codes, until there is no more."""
    import optgeom.hooks
    import optgeom.optim
    import optgeom.trainer  # noqa: F401

    while asked := _line():
        plan = json.loads(asked)
        pids = []
        for rank in range(plan["world"]):
            pid = os.fork()
            if not pid:
                _be_rank(plan, rank)
                return
            pids.append(pid)
        print(json.dumps(_ends(pids, plan["timeout"])), flush=True)  # noqa: T201


def _line() -> bytes:
    """A line of what is asked, read without Python's buffer, which every child would inherit."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _be_rank(plan: Mapping[str, Any], rank: int) -> None:
    """As if `python WORKER FOLDER RANK WORLD` had just begun."""
    printed = os.open(_output(Path(plan["folder"]), rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    faulthandler.enable()
    arguments = plan["arguments"]
    if arguments is not None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": plan["world"]}
        place |= {"LOCAL_WORLD_SIZE": plan["world"], "MASTER_PORT": plan["port"]}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    sys.argv = [plan["worker"], *(arguments or (plan["folder"], str(rank), str(plan["world"])))]
    runpy.run_path(plan["worker"], run_name="__main__")


def _ends(pids: list[int], seconds: float) -> list[int]:
    """Exit codes, negative for signals; whoever is late is killed."""
    codes: dict[int, int] = {}
    late = time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > late:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    _serve()
