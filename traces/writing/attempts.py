"""The attempts of a run: how one begins, what run.json says of it, and what others have said.

Rank 0 of each process life writes run.json. Where two of them write one run, neither may lose what
the other has said: what is written is always what is there, with the writer's own word in it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from optgeom.traces.errors import TraceError
from optgeom.traces.files.life import heard_from
from optgeom.traces.files.lock import Lock, holder, lock_file
from optgeom.traces.files.place import Entry, Place, find
from optgeom.traces.info import RUN_FILE, AttemptInfo, LayerInfo, RunInfo
from optgeom.traces.names import parse_name
from optgeom.traces.schema import SCHEMA_VERSION, TABLES
from optgeom.traces.writing.claims import claimants, claimed
from optgeom.traces.writing.runfile import (
    create_run,
    exists,
    find_run,
    has_run,
    make_folder,
    read_run,
    remove_folders,
    remove_run,
    replace_run,
    shown_of,
)

_LOG = logging.getLogger(__name__)
_TRIES = 20


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(
    where: Path | Place, info: RunInfo, start_step: int | None, lock: Lock | None = None
) -> RunInfo:
    """Make run.json, or open a new attempt in the one that is there.

    Args:
        where: the run's folder, which exists, or its place in an object store.
        info: what run.json shall say.
        start_step: of the new attempt; None: there is no trace yet.
        lock: held on the folder, on this machine.

    Returns:
        What stands in run.json now; its last attempt is the new one.

    Raises:
        TraceExists: there is a trace and `start_step` is None.
        TraceError: the place cannot be written, or holds the trace of another model.
    """
    try:
        return _begin(where, info, start_step, lock)
    except OSError as error:
        raise TraceError(
            f"{shown_of(where)} cannot be written ({error.strerror}): choose another folder"
        ) from error
    except TypeError as error:
        raise TraceError(f"run.json cannot hold this config or capture: {error}") from error


def _begin(
    where: Path | Place, info: RunInfo, start_step: int | None, lock: Lock | None
) -> RunInfo:
    skipped = -1
    for _ in range(_TRIES):
        old = read_run(where) if has_run(where) else None
        written = newest_of_files(where)
        if old is None:
            if written is not None:
                raise TraceError(
                    f"{shown_of(where)} holds the records of a run whose {RUN_FILE} is missing: "
                    f"restore it (optgeom trace verify {shown_of(where)} --repair), or write to "
                    "another folder"
                )
            number = 0
        elif start_step is None:
            raise exists(where)
        else:
            # what is on the disk counts too: run.json may be a copy from before its last attempt
            number = max(_next(old), -1 if written is None else written + 1, skipped + 1)
        with claimed(where, number) as is_mine:
            if is_mine:
                # another may have begun between the reading and the claim
                there = read_run(where) if has_run(where) else None
                if there is None and old is None:
                    attempt = AttemptInfo(0, start_step or 0, now())
                    begun = replace(
                        info,
                        created=info.created or attempt.created,
                        attempts=(attempt,),
                        schema=SCHEMA_VERSION,
                    )
                    create_run(where, begun)
                    return begun
                if there is not None and old is not None and number >= _next(there):
                    _warn_if_alive(where, there, lock)
                    begun = merge(there, info, start_step or 0, number)
                    replace_run(where, begun)
                    return begun
        skipped = number
        if old is None:
            # of two that saw each other, both stood back
            time.sleep(random.uniform(0.1, 0.5))
    by = claimants(where) or "other processes"
    raise TraceError(
        f"{shown_of(where)} is being made or resumed by {by}: try again, or remove the claim if "
        "that process is dead"
    )


def join(
    where: Path | Place,
    info: RunInfo,
    rank: int,
    start_step: int | None,
    attempt: int | None,
    lock: Lock | None = None,
) -> tuple[RunInfo, int]:
    """Begin as one of a run's ranks: rank 0 with run.json, the others without waiting for it.

    Returns:
        What run.json says, as far as this rank knows, and the number of its attempt.

    Raises:
        TraceExists: as begin does.
        TraceError: as begin does; or a rank other than 0 resumes and was not told its attempt.
    """
    if rank == 0:
        begun = begin(where, info, start_step, lock)
        return begun, begun.attempts[-1].attempt
    if start_step is not None and attempt is None:
        raise TraceError(
            f"rank {rank} resumes at step {start_step} but does not know which attempt this is: "
            "pass attempt=, the `attempt` of rank 0's writer"
        )
    if attempt:
        info = replace(info, run=read_run(where).run)
    return info, attempt or 0


def lock_run(
    folder: Path, where: Path | Place, start_step: int | None, rank: int = 0
) -> tuple[Lock, list[Path]]:
    """Lock a rank of a run for this process, by a folder of this machine that is made for it.

    Args:
        folder: the run's own, or the one that stands here for its place in an object store.
        where: the run's folder or place.
        start_step: None: the run is to begin.
        rank: each holds a lock of its own, which says that it lives.

    Returns:
        The lock, and the folders that were not there before, innermost first.

    Raises:
        TraceExists: a live process is making a trace there.
        TraceError: a live process is writing the trace that is there; or it cannot be written.
    """
    made = make_folder(folder)
    try:
        lock = Lock.take(folder, lock_file(rank))
    except OSError as error:
        remove_folders(made)
        raise TraceError(
            f"{folder} cannot be written ({error.strerror}): choose another folder"
        ) from error
    if lock is None:
        raise busy(folder, where, start_step, rank)
    return lock, made


def busy(folder: Path, where: Path | Place, start_step: int | None, rank: int = 0) -> TraceError:
    """The error of a run that a live process holds; arguments as those of `lock_run`."""
    if start_step is None and rank == 0:
        return exists(where)
    of = f" as rank {rank}" if rank else ""
    return TraceError(
        f"{shown_of(where)} is being written by {holder(folder, lock_file(rank))}{of}: end "
        "that one first, or write to another folder"
    )


def withdraw(where: Path | Place, own: RunInfo, attempt: int) -> None:
    """Take back an attempt that could not begin after all: run.json as if it had not been asked.

    Args:
        where: the run's folder or place.
        own: what `begin` said.
        attempt: its number.

    Raises:
        TraceError: an object store does not answer, or refuses.
        OSError: it cannot be written.
    """
    there = find_run(where)
    if there is None or (own.run, own.created) != (there.run, there.created):
        return
    others = tuple(one for one in there.attempts if one.attempt != attempt)
    if others:
        replace_run(where, replace(there, attempts=others))
    else:
        remove_run(where)


def end(info: RunInfo, attempt: int, failure: BaseException | None) -> RunInfo:
    """What run.json says once an attempt has ended: closed, or what failed."""
    if failure is None:
        closed, failed = now(), None
    else:
        closed, failed = None, f"{type(failure).__name__}: {failure}".partition("\n")[0]
    return replace(
        info,
        attempts=tuple(
            replace(one, closed=closed, failed=failed) if one.attempt == attempt else one
            for one in info.attempts
        ),
    )


def merge(old: RunInfo, new: RunInfo, start_step: int, attempt: int | None = None) -> RunInfo:
    """What run.json says after a run was resumed: the newest word, and nothing lost.

    Args:
        old: what it said.
        new: what the new attempt says.
        start_step: of the new attempt.
        attempt: its number; None: the next one.

    Raises:
        TraceError: a layer has another shape, or a column another type, than before.
    """
    shapes = {layer.name: layer.shape for layer in old.layers}
    for layer in new.layers:
        if shapes.get(layer.name, layer.shape) != layer.shape:
            raise TraceError(
                f"layer {layer.name} is {layer.shape} here and {shapes[layer.name]} in the trace: "
                "write another model to another folder"
            )
    for table, declared in new.columns.items():
        before = old.columns.get(table, {})
        for name, alias in declared.items():
            if before.get(name, alias) != alias:
                raise TraceError(
                    f"column {table}.{name} is {alias} here and {before[name]} in the trace: "
                    "write to another folder"
                )
    number = _next(old) if attempt is None else attempt
    return replace(
        new,
        run=old.run,
        created=old.created,
        layers=_layers(old, new),
        columns=_columns(old, new),
        attempts=(*old.attempts, AttemptInfo(number, start_step, now())),
        schema=SCHEMA_VERSION,
    )


def reconciled(own: RunInfo, there: RunInfo) -> RunInfo:
    """What run.json shall say, of what this process says and what stands there by now.

    The word of the process with the newest attempt counts; attempts, layers and columns of others
    are kept. An attempt that has ended stays ended.

    Raises:
        TraceError: the one that is there is another run's.
    """
    if (own.run, own.created) != (there.run, there.created):
        raise TraceError(
            f"run.json is by now that of another run ({there.run}, made {there.created}), not of "
            f"{own.run}, made {own.created}: it is left as it is"
        )
    attempts = {one.attempt: one for one in there.attempts}
    for one in own.attempts:
        known = attempts.get(one.attempt)
        if known is None or not known.has_ended or one.has_ended:
            attempts[one.attempt] = one
    first, last = (own, there) if _next(there) > _next(own) else (there, own)
    return replace(
        last,
        layers=_layers(first, last),
        columns=_columns(first, last),
        attempts=tuple(attempts[number] for number in sorted(attempts)),
        schema=max(own.schema, there.schema),
    )


def update_run(where: Path | Place, own: RunInfo) -> RunInfo:
    """Write run.json so that what others have written meanwhile stays; returns what it says.

    Raises:
        TraceError: the one that is there is another run's; or an object store does not answer.
        OSError: it cannot be written.
    """
    there = find_run(where)
    told = own if there is None else reconciled(own, there)
    replace_run(where, told)
    return told


def newest_of_files(where: Path | Place) -> int | None:
    """The highest attempt of which rank 0 has left records; None where it has left none."""
    place = find(where) if isinstance(where, Path) else where
    paths = (path.split("/") for path in place.entries())
    names = (parse_name(path[-1]) for path in paths if path[0] in TABLES)
    return max((one.attempt for one in names if one is not None and not one.rank), default=None)


def _next(info: RunInfo) -> int:
    return max((one.attempt for one in info.attempts), default=-1) + 1


def _layers(old: RunInfo, new: RunInfo) -> tuple[LayerInfo, ...]:
    return tuple({one.name: one for one in (*old.layers, *new.layers)}.values())


def _columns(old: RunInfo, new: RunInfo) -> dict[str, Mapping[str, str]]:
    columns: dict[str, Mapping[str, str]] = dict(old.columns)
    for table, declared in new.columns.items():
        columns[table] = {**old.columns.get(table, {}), **declared}
    return columns


def _warn_if_alive(where: Path | Place, old: RunInfo, lock: Lock | None) -> None:
    """Say it where a process that is not seen from here may still write."""
    if lock is not None and lock.is_of_a_crash:
        return
    if isinstance(where, Place):
        entries = where.entries(recursive=False)
    else:
        found = (where / RUN_FILE).stat()
        entries = {RUN_FILE: Entry(found.st_size, found.st_mtime_ns)}
    ago = heard_from(old, entries)
    if ago is not None and old.attempts:
        _LOG.warning(
            "%s: run.json was touched %.0f s ago: if the process that wrote attempt %d still runs, "
            "on another machine, two now write one trace",
            shown_of(where),
            max(ago, 0.0),
            old.attempts[-1].attempt,
        )
