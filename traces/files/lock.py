"""Files that tell whether the process that holds them still lives, on this machine.

A lock goes with its process, however that dies. Where a file system has no locks, or another
machine holds one that is not seen here, `Lock.take` succeeds: what else is known there (the time
of run.json) is for the caller to look at.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import time
import weakref
from contextlib import suppress
from pathlib import Path

LOCK_FILE = ".lock"
COMPACT_LOCK = ".compact.lock"
_WRITERS = re.compile(r"\.lock(-r[0-9]{5,18})?")
_TRIES = 3
_ROUNDS = 20
_TRY_SECONDS = 0.02
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """A lock that this process holds; made by `take`.

    Attributes:
        before: what the holder before wrote of itself, "PROCESS MACHINE"; empty where there was
            none, or it went as it should.
    """

    def __init__(self, path: Path, handle: int, before: str):
        self._path, self._handle, self.before = path, handle, before
        _HELD.add(self)

    @classmethod
    def take(cls, folder: Path, file: str = LOCK_FILE) -> Lock | None:
        """Lock a folder, which exists; None where another holder lives.

        Args:
            folder: the run's.
            file: `lock_file` of the rank that writes the run, COMPACT_LOCK for who replaces its
                files.

        Raises:
            OSError: the file cannot be made.
        """
        path = folder / file
        for left in reversed(range(_ROUNDS)):
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                mine = True
            except PermissionError:
                # another user's, in a folder for both: it can be locked, and not written to
                handle, mine = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
            try:
                if not _take(handle):
                    os.close(handle)
                    return None
                # file systems that number a file anew each time are believed at last
                if _is_at(path, handle) or not left:
                    before = os.pread(handle, 200, 0).decode(errors="replace").strip()
                    if mine:
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, f"{os.getpid()} {platform.node()}\n".encode(), 0)
                    return cls(path, handle, before)
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its holder had removed it between our opening and locking
        return None

    def release(self) -> None:
        """Let go; any number of times. Where the file cannot be removed it stays, and is free."""
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        _HELD.discard(self)
        with suppress(OSError):
            if _is_at(self._path, handle):
                self._path.unlink(missing_ok=True)
        os.close(handle)

    def forget(self) -> None:
        """In a forked child: the parent's lock must not outlive the parent through it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    @property
    def is_of_a_crash(self) -> bool:
        """Whether the holder before was a process of this machine: it has died."""
        return self.before.partition(" ")[2] == platform.node()


def lock_file(rank: int) -> str:
    """The lock that a rank of a run holds for as long as it lives.

    >>> lock_file(0), lock_file(12)
    ('.lock', '.lock-r00012')
    """
    return f"{LOCK_FILE}-r{rank:05d}" if rank else LOCK_FILE


def is_lock(file: str) -> bool:
    """Whether a name is that of a lock in a run's folder.

    >>> is_lock(".lock"), is_lock(".lock-r00012"), is_lock(".compact.lock"), is_lock("run.json")
    (True, True, True, False)
    """
    return file == COMPACT_LOCK or _WRITERS.fullmatch(file) is not None


def living(folder: Path) -> tuple[str, ...]:
    """Who holds the lock of any rank of a run, for messages; empty where no process does.

    Processes of this machine only, the one that asks included. The locks stay as they are.

    Args:
        folder: the run's.
    """
    try:
        files = sorted(file for file in os.listdir(folder) if _WRITERS.fullmatch(file))
    except OSError:
        return ()
    return tuple(holder(folder, file) for file in files if is_held(folder, file))


def is_held(folder: Path, file: str = LOCK_FILE) -> bool:
    """Whether a process of this machine holds a lock, which stays as it is."""
    try:
        handle = os.open(folder / file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def has_died(folder: Path, file: str = LOCK_FILE) -> bool:
    """Whether a process of this machine has left a lock behind, which stays as it is.

    False where it lives, went as it should, was on another machine, or there are no locks.
    """
    try:
        handle = os.open(folder / file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        said = os.pread(handle, 200, 0).decode(errors="replace").strip()
        return said.partition(" ")[2] == platform.node()
    except OSError:
        return False
    finally:
        os.close(handle)


def holder(folder: Path, file: str = LOCK_FILE) -> str:
    """Who holds the lock of a folder, or held it when it died, for messages."""
    try:
        process, _, machine = (folder / file).read_text(errors="replace").partition(" ")
    except OSError:
        return "another process"
    return f"process {process} on {machine.strip()}" if machine else "another process"


def _take(handle: int) -> bool:
    for _ in range(_TRIES):
        if _try(handle, fcntl.LOCK_EX):
            return True
        # it may be somebody who only looks, or who is about to let go
        time.sleep(_TRY_SECONDS)
    return _try(handle, fcntl.LOCK_EX)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(path: Path, handle: int) -> bool:
    mine = os.fstat(handle)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_all)
