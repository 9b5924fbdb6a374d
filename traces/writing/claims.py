"""Claims on the number of an attempt: of two processes that resume a run at once, one gets it.

A claim stands beside run.json from before it is read until the attempt is in it. In a folder it is
a file that only one process can make. An object store (as pyarrow.fs asks it) has nothing that only
one can make; there each process puts a claim of its own and then lists them: of two, the later one
sees the other's. Whoever sees another's takes its own back. A claim says who made it: one of a
process of this machine that has died does not count, nor does one that is old.
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

_CLAIM = ".claim-a"


@contextmanager
def claimed(where: Path | Place, attempt: int) -> Iterator[bool]:
    """Hold the claim on a number for the length of a block; False where another has it.

    Raises:
        TraceError: an object store does not answer, or refuses.
        OSError: the folder cannot be written.
    """
    name = f"{_CLAIM}{attempt:04d}"
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


def claimants(where: Path | Place) -> str:
    """Which processes have claimed a number, and by which files, for messages; may be empty.

    Raises:
        TraceError: an object store does not answer, or refuses.
    """
    if isinstance(where, Place):
        names = sorted(where.entries(recursive=False))
    else:
        names = sorted(one.name for one in where.iterdir())
    found = []
    for name in names:
        if name.startswith(_CLAIM):
            process, _, machine = _writer_of(where, name).partition(" ")
            found.append(f"process {process} on {machine} ({name})" if machine else name)
    return ", ".join(found)


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
    others = [path for path, entry in found.items() if path != own and entry.changed > stale]
    dead = [path for path in others if _has_died(_writer_of(place, path))]
    for path in dead:
        place.remove(path)
    return len(dead) == len(others)


def _make(path: Path) -> bool:
    for _ in range(2):
        with suppress(FileExistsError):
            _write(path)
            return True
        try:
            is_stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if not is_stale and not _has_died(_writer_of(path.parent, path.name)):
            return False
        path.unlink(missing_ok=True)
    return False


def _write(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.write(handle, _who())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _who() -> bytes:
    return f"{os.getpid()} {platform.node()}\n".encode()


def _writer_of(where: Path | Place, name: str) -> str:
    """What a claim says of who made it; empty where it says nothing, or has gone."""
    try:
        data = where.read(name) if isinstance(where, Place) else (where / name).read_bytes()
    except (OSError, TraceError):
        # it is withdrawn just now, or the store does not say: a claim of somebody all the same
        return ""
    return data[:200].decode(errors="replace").strip()


def _has_died(writer: str) -> bool:
    """Whether it was a process of this machine that is not there any more."""
    process, _, machine = writer.partition(" ")
    if machine != platform.node() or not process.isdecimal() or not 0 < int(process) < 1 << 31:
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's
    return False
