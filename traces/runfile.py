"""Making, resuming and replacing run.json, whole each time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from optgeom.traces.address import masked
from optgeom.traces.errors import TraceError, TraceExists
from optgeom.traces.info import RUN_FILE, AttemptInfo, LayerInfo, RunInfo, dump, parse
from optgeom.traces.names import TEMPORARY
from optgeom.traces.segment import fsync_folder


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def local_folder(out: str | os.PathLike[str]) -> Path:
    """The folder to write to.

    Raises:
        TraceError: `out` is empty, or a URI of an object store.
    """
    text = os.fspath(out)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if not text:
        raise TraceError(f"{os.fspath(out)!r} names no folder: pass the folder to write to, or '.'")
    if "://" in text:
        raise TraceError(
            f"traces are written to local folders, not to {masked(text)!r}: "
            "write to a folder and copy it"
        )
    return Path(text).absolute()


def make_folder(folder: Path) -> list[Path]:
    """Make the folder and check that files can be made in it.

    Returns:
        The folders that were not there before, innermost first.

    Raises:
        TraceError: it cannot be written; nothing is left behind.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    probe = folder / f"{TEMPORARY}probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread may have been faster
    except OSError as error:
        remove_folders(missing)
        raise TraceError(
            f"{folder} cannot be written ({error.strerror}): choose another folder"
        ) from error
    return missing


def remove_folders(folders: list[Path]) -> None:
    """Remove folders that make_folder made, as far as they are empty."""
    for one in folders:
        try:
            one.rmdir()
        except OSError:
            return


def join(
    folder: Path, info: RunInfo, rank: int, start_step: int | None, attempt: int | None
) -> tuple[RunInfo, int]:
    """Begin as one of a run's ranks: rank 0 with run.json, the others without waiting for it.

    Returns:
        What run.json says, as far as this rank knows, and the number of its attempt.

    Raises:
        TraceExists: as begin does.
        TraceError: as begin does; or a rank other than 0 resumes and was not told its attempt.
    """
    if rank == 0:
        begun = begin(folder, info, start_step)
        return begun, begun.attempts[-1].attempt
    if start_step is not None and attempt is None:
        raise TraceError(
            f"rank {rank} resumes at step {start_step} but does not know which attempt this is: "
            "pass attempt=, the `attempt` of rank 0's writer"
        )
    make_folder(folder)
    if attempt:
        info = replace(info, run=read_run(folder).run)
    return info, attempt or 0


def end(info: RunInfo, failure: BaseException | None) -> RunInfo:
    """What run.json says once its last attempt has ended: closed, or what failed."""
    if not info.attempts:
        return info
    *before, last = info.attempts
    if failure is None:
        ended = replace(last, closed=now())
    else:
        reason = f"{type(failure).__name__}: {failure}".partition("\n")[0]
        ended = replace(last, closed=None, failed=reason)
    return replace(info, attempts=(*before, ended))


def begin(folder: Path, info: RunInfo, start_step: int | None) -> RunInfo:
    """Make run.json, or open a new attempt in the one that is there.

    Returns:
        What stands in run.json now; its last attempt is the new one.

    Raises:
        TraceExists: there is a trace and `start_step` is None.
        TraceError: the folder cannot be written, or holds the trace of another model.
    """
    present = (folder / RUN_FILE).exists()
    if present and start_step is None:
        raise _exists(folder)
    made = make_folder(folder)
    try:
        if not present:
            attempt = AttemptInfo(0, start_step or 0, now())
            info = replace(info, created=info.created or attempt.created, attempts=(attempt,))
            _create(folder, info)
        else:
            info = merge(read_run(folder), info, start_step or 0)
            replace_run(folder, info)
    except BaseException as error:
        remove_folders(made)
        if isinstance(error, OSError):
            raise TraceError(
                f"{folder} cannot be written ({error.strerror}): choose another folder"
            ) from error
        if isinstance(error, TypeError):
            raise TraceError(f"run.json cannot hold this config or capture: {error}") from error
        raise
    return info


def merge(old: RunInfo, new: RunInfo, start_step: int) -> RunInfo:
    """What run.json says after a run was resumed: the newest word, and nothing lost.

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
    layers: dict[str, LayerInfo] = {one.name: one for one in (*old.layers, *new.layers)}
    columns: dict[str, Mapping[str, str]] = dict(old.columns)
    for table, declared in new.columns.items():
        before = old.columns.get(table, {})
        for name, alias in declared.items():
            if before.get(name, alias) != alias:
                raise TraceError(
                    f"column {table}.{name} is {alias} here and {before[name]} in the trace: "
                    "write to another folder"
                )
        columns[table] = {**before, **declared}
    number = max((one.attempt for one in old.attempts), default=-1) + 1
    return replace(
        new,
        run=old.run,
        created=old.created,
        layers=tuple(layers.values()),
        columns=columns,
        attempts=(*old.attempts, AttemptInfo(number, start_step, now())),
    )


def read_run(folder: Path) -> RunInfo:
    """Read run.json of a local trace."""
    path = folder / RUN_FILE
    return parse(path.read_bytes(), str(path))


def replace_run(folder: Path, info: RunInfo) -> None:
    """Replace run.json by rename, so that a reader sees the old or the new one."""
    temporary = _write(folder, info)
    try:
        temporary.replace(folder / RUN_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(folder)


def _create(folder: Path, info: RunInfo) -> None:
    temporary = _write(folder, info)
    try:
        # a link, unlike a rename, fails if another process was faster
        os.link(temporary, folder / RUN_FILE)
    except FileExistsError as error:
        raise _exists(folder) from error
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(folder)


def _write(folder: Path, info: RunInfo) -> Path:
    data = dump(info)
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{RUN_FILE}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _exists(folder: Path) -> TraceExists:
    return TraceExists(
        f"{folder} already holds a trace: write to another folder, "
        "or pass start_step=N to resume it as a new attempt"
    )
