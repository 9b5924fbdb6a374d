"""The spool: where records of a run in an object store lie until the store has them.

It is a trace in a local folder, or what is left of one: what the store has is removed from it. All
spools of one run on one machine lie in one folder, below TMPDIR, under a name made of the user, the
run and its address without keys:

    TMPDIR/optgeom-UID/RUN-DIGEST/aAAAA-rRRRRR-TOKEN/

Each is locked by the process that fills it. One that nobody holds was left by a process that died,
or that had to end before the store took everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optgeom.traces.errors import TraceError
from optgeom.traces.files.listing import file_sizes
from optgeom.traces.files.lock import LOCK_FILE, Lock, is_lock
from optgeom.traces.files.place import Place
from optgeom.traces.info import RunInfo
from optgeom.traces.writing.runfile import replace_run

SPOOL_FILE = ".spool.json"
PART = 10
"""Raw matrices may take one part in so many of what was free on a disk at the start."""

_KEPT = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 48


@dataclass(frozen=True, slots=True)
class SpoolNote:
    """What a spool says of itself.

    Attributes:
        uri: of the run, as it may be shown.
        run: its name.
        created: when it was made, as in run.json; empty where this was not known.
        attempt: whose records these are.
        rank: see `attempt`.
    """

    uri: str
    run: str
    created: str
    attempt: int
    rank: int

    def is_of(self, info: RunInfo) -> bool:
        """Whether it holds records of a run."""
        return self.run == info.run and self.created in ("", info.created)


class Spool:
    """A spool that this process holds.

    Args:
        folder: the spool's own.
        note: what it is of.
        locks: on the folder, and of rank 0 on the run.

    Attributes:
        room: bytes that may wait, of all spools of the run here, before raw matrices are left out.
    """

    def __init__(self, folder: Path, note: SpoolNote, *locks: Lock):
        self.folder, self.note, self._locks = folder, note, locks
        self.room = shutil.disk_usage(folder).free // PART

    @classmethod
    def make(cls, home: Path, note: SpoolNote, held: Lock | None) -> Spool:
        """A new one.

        Args:
            home: the folder of the run's spools; see `home_of`.
            note: what it is of.
            held: a lock on the run, which goes with the spool's.

        Raises:
            TraceError: it cannot be made; nothing of it is left.
        """
        name = f"a{note.attempt:04d}-r{note.rank:05d}-{secrets.token_hex(4)}"
        folder = home / name
        lock: Lock | None = None
        try:
            folder.mkdir(parents=True)
            lock = Lock.take(folder)
            if lock is None:
                raise TraceError(f"{folder} is held by another process: remove it")
            content = {name: getattr(note, name) for name in SpoolNote.__slots__}
            (folder / SPOOL_FILE).write_text(json.dumps(content, indent=1) + "\n")
            return cls(folder, note, lock, *([held] if held is not None else []))
        except BaseException as error:
            if lock is not None:
                lock.release()
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()
            with suppress(OSError):
                home.rmdir()
            if isinstance(error, OSError):
                raise _cannot(folder, error) from error
            raise

    @classmethod
    def take(cls, folder: Path) -> Spool | None:
        """One that is there; None where a live process holds it, or it is no spool.

        Raises:
            TraceError: it cannot be locked.
        """
        note = read_note(folder)
        if note is None:
            return None
        try:
            lock = Lock.take(folder)
        except OSError as error:
            raise _cannot(folder, error) from error
        return None if lock is None else cls(folder, note, lock)

    def say(self, info: RunInfo) -> None:
        """Write run.json, as this process knows it.

        Raises:
            TraceError: it cannot be written.
        """
        try:
            replace_run(self.folder, info)
        except OSError as error:
            raise _cannot(self.folder, error) from error

    def waiting(self) -> int:
        """Bytes of all spools of the run on this machine."""
        return sum(size for file, size in file_sizes(self.folder.parent) if not is_lock(file))

    def release(self) -> None:
        """Leave it for another process."""
        for lock in self._locks:
            lock.release()

    def remove(self) -> None:
        """Remove it: the store has everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
        home = self.folder.parent
        with suppress(OSError):  # others are there
            if os.listdir(home) == [LOCK_FILE] and (left := Lock.take(home)) is not None:
                left.release()  # the run's, of a process that has died
            home.rmdir()


def home_of(place: Place) -> Path:
    """The folder of a run's spools on this machine; it may not be there yet.

    Raises:
        TraceError: the folder of temporary files is not this user's to write to.
    """
    endpoint = re.search(r"[?&]endpoint_override=([^&]*)", place.shown)
    address = f"{place.filesystem.type_name}://{place.root} {endpoint.group(1) if endpoint else ''}"
    digest = hashlib.blake2b(address.encode(), digest_size=4).hexdigest()
    mine = Path(tempfile.gettempdir()).absolute() / f"optgeom-{os.getuid()}"
    try:
        mine.mkdir(mode=0o700, exist_ok=True)
        found = mine.lstat()
    except OSError as error:
        raise _cannot(mine, error) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise TraceError(
            f"{mine} may be written by others: records wait there until the store has them. Set "
            "TMPDIR to a folder of your own"
        )
    return mine / f"{_KEPT.sub('_', place.name)[:_LONGEST]}-{digest}"


def spools_in(home: Path) -> list[Path]:
    """The spools of a run, oldest attempt first; without a look at who holds them."""
    return sorted(one for one in home.glob("a*-r*-*") if (one / SPOOL_FILE).is_file())


def read_note(folder: Path) -> SpoolNote | None:
    """What a spool is of; None where the folder is no spool."""
    try:
        found: dict[str, Any] = json.loads((folder / SPOOL_FILE).read_text())
        return SpoolNote(
            str(found["uri"]),
            str(found["run"]),
            str(found["created"]),
            int(found["attempt"]),
            int(found["rank"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cannot(folder: Path, error: OSError) -> TraceError:
    return TraceError(
        f"{folder} cannot be written ({error.strerror}): records wait there until the store has "
        "them. Set TMPDIR to a folder with room"
    )
