"""Claims on the number of an attempt: of two processes that resume a run at once, one gets it.

A claim stands beside run.json from before it is read until the attempt is in it. In a folder it is
a file that only one process can make. An object store (as pyarrow.fs asks it) has nothing that only
one can make; there each process puts a claim of its own and then lists them: of two, the later one
sees the other's. Whoever sees another's takes its own back.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optgeom.traces.errors import TraceError
from optgeom.traces.files.place import Place

_STALE_SECONDS = 300.0
"""A process claims for as long as it takes to write run.json; what is older was left by one."""


@contextmanager
def claimed(where: Path | Place, attempt: int) -> Iterator[bool]:
    """Hold the claim on a number for the length of a block; False where another has it.

    Raises:
        TraceError: an object store does not answer, or refuses.
        OSError: the folder cannot be written.
    """
    name = f".claim-a{attempt:04d}"
    if isinstance(where, Place):
        own = f"{name}-{secrets.token_hex(8)}"
        where.write(own, _who())
        try:
            yield _alone(where, name, own)
        finally:
            with suppress(TraceError):
                where.remove(own)
        return
    path = where / name
    if not _make(path):
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _alone(place: Place, name: str, own: str) -> bool:
    found = {
        path: entry
        for path, entry in place.entries(recursive=False).items()
        if path.startswith(f"{name}-")
    }
    mine = found.get(own)
    if mine is None:
        return False
    # by the store's own clock
    stale = mine.changed - int(_STALE_SECONDS * 1e9)
    return not [path for path, entry in found.items() if path != own and entry.changed > stale]


def _make(path: Path) -> bool:
    for _ in range(2):
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.write(handle, _who())
            os.close(handle)
            return True
        try:
            is_stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if not is_stale:
            return False
        path.unlink(missing_ok=True)
    return False


def _who() -> bytes:
    return f"{os.getpid()} {platform.node()}\n".encode()
