"""Opening a run to write it: in a local folder, or by way of a spool in an object store."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from optgeom.traces.errors import TraceError
from optgeom.traces.files.address import is_uri, shareable
from optgeom.traces.files.inside import check_links
from optgeom.traces.files.lock import Lock, is_held
from optgeom.traces.files.place import NoAnswer, Place, find
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import TABLES
from optgeom.traces.writing.attempts import busy, join, lock_run, merge, withdraw
from optgeom.traces.writing.manifest import without_secrets
from optgeom.traces.writing.mirror import Mirror
from optgeom.traces.writing.runfile import (
    exists,
    find_run,
    has_run,
    local_folder,
    make_folder,
    read_run,
    remove_folders,
)
from optgeom.traces.writing.spool import Spool, SpoolNote, home_of, spools_in

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that may be written.

    Attributes:
        folder: where its files are written.
        place: where the trace is read.
        info: what run.json says, as far as this rank knows.
        attempt: the number of this attempt.
        lock: this rank's, held on the folder; None where a spool has it.
        mirror: brings the folder to the place; None where they are the same.
        undo: takes all of it back, for a writer that cannot begin after all.
    """

    folder: Path
    place: Place
    info: RunInfo
    attempt: int
    lock: Lock | None
    mirror: Mirror | None
    undo: ExitStack


def open_run(
    out: str | os.PathLike[str],
    info: RunInfo,
    *,
    rank: int,
    start_step: int | None,
    attempt: int | None,
    every: float,
) -> Opened:
    """Begin an attempt; see `TraceWriter`.

    Args:
        out: a folder, or a URI that pyarrow.fs opens.
        info: what run.json shall say.
        rank: of this process.
        start_step: resume at this step; None: begin.
        attempt: of a rank other than 0 that resumes.
        every: seconds between two looks for what an object store does not have.

    Raises:
        TraceExists: as TraceWriter does.
        TraceError: as TraceWriter does; nothing is left.
    """
    where = _where(out)
    if isinstance(where, Place):
        return _open_store(where, _kept(info, where), rank, start_step, attempt, every)
    folder, place = where, find(where)
    info = _kept(info, place)
    if rank == 0 and start_step is None and has_run(folder):
        raise exists(folder)
    for table in TABLES:
        # a reader would refuse it, and say so only after the run
        check_links(str(folder), table)
    with ExitStack() as undo:
        lock, made = lock_run(folder, folder, start_step, rank)
        undo.callback(remove_folders, made)
        undo.callback(lock.release)
        begun, number = join(folder, info, rank, start_step, attempt, lock)
        if rank == 0:
            undo.callback(_withdraw, folder, begun, number)
        return Opened(folder, place, begun, number, lock, None, undo.pop_all())


def check_run(out: str | os.PathLike[str], info: RunInfo, *, start_step: int | None) -> None:
    """Refuse a place that `open_run` would refuse for rank 0, and leave it as it was.

    Whether an object store may be written to is not asked, nor whether it has the bucket.

    Args:
        out: a folder, or a URI that pyarrow.fs opens.
        info: what run.json shall say.
        start_step: resume at this step; None: begin.

    Raises:
        TraceExists: as TraceWriter does.
        TraceError: as TraceWriter does.
    """
    where = _where(out)
    if has_run(where):
        if start_step is None:
            raise exists(where)
        merge(read_run(where), info, start_step)
    if isinstance(where, Path):
        if is_held(where):
            raise busy(where, where, start_step)
        remove_folders(make_folder(where))


def _where(out: str | os.PathLike[str]) -> Place | Path:
    """A place in an object store, or a local folder."""
    text = os.fspath(out)
    if is_uri(text) and not text.startswith("file://"):
        place = find(text)
        if not place.is_local:
            return place
        text = place.root
    return local_folder(text)


def _open_store(
    place: Place,
    info: RunInfo,
    rank: int,
    start_step: int | None,
    attempt: int | None,
    every: float,
) -> Opened:
    home = home_of(place)
    try:
        return _open_spool(home, place, info, rank, start_step, attempt, every)
    except NoAnswer:
        raise  # nor would the question for the bucket be answered, which may take half a minute
    except TraceError:
        if _lacks_bucket(place):
            raise TraceError(f"{place.missing()}: make it, or pass another") from None
        raise


def _open_spool(
    home: Path,
    place: Place,
    info: RunInfo,
    rank: int,
    start_step: int | None,
    attempt: int | None,
    every: float,
) -> Opened:
    lock: Lock | None = None
    with ExitStack() as undo:
        if rank == 0:
            if start_step is None and has_run(place):
                raise exists(place)
            lock, made = lock_run(home, place, start_step)
            undo.callback(remove_folders, made)
            undo.callback(lock.release)
        elif (there := find_run(place)) is not None:
            # what rank 0 has said: this rank's own clock may say otherwise
            info = replace(info, run=there.run, created=there.created)
        begun, number = join(place, info, rank, start_step, attempt, lock)
        if rank == 0:
            undo.callback(_withdraw, place, begun, number)
        created = begun.created if rank == 0 or there is not None else ""
        note = SpoolNote(place.shown, begun.run, created, number, rank)
        spool = Spool.make(home, note, lock)
        undo.callback(spool.remove)
        if rank == 0:
            spool.say(begun)
        left = _left(home, begun, undo) if start_step is not None else []
        mirror = Mirror(spool, place, left, every=every)
        undo.callback(mirror.abandon)
        _LOG.info("%s is written by way of %s", place.shown, spool.folder)
        return Opened(spool.folder, place, begun, number, None, mirror, undo.pop_all())


def _withdraw(where: Path | Place, begun: RunInfo, attempt: int) -> None:
    """Take an attempt back, on the way out with another error."""
    try:
        withdraw(where, begun, attempt)
    except (TraceError, OSError) as error:
        _LOG.warning("run.json says that attempt %d has begun, which failed: %s", attempt, error)


def _left(home: Path, info: RunInfo, undo: ExitStack) -> list[Spool]:
    """Spools of the run that no live process holds; released where opening fails after all."""
    found = []
    for folder in spools_in(home):
        spool = Spool.take(folder)
        if spool is None:
            continue
        if spool.note.is_of(info):
            undo.callback(spool.release)
            found.append(spool)
        else:
            spool.release()
            _LOG.warning(
                "%s holds records of an earlier run (%s, made %s) at the same address: remove it, "
                "or upload it elsewhere",
                folder,
                spool.note.run,
                spool.note.created,
            )
    return found


def _lacks_bucket(place: Place) -> bool:
    with suppress(TraceError):
        return place.lacks_bucket()
    return False


def _kept(info: RunInfo, place: Place) -> RunInfo:
    run: str = shareable(info.run, place.address)
    return replace(without_secrets(info, place.address), run=run)
