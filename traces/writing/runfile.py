"""run.json as a file: read, made and replaced as a whole, in a folder or in an object store.

After each time the same bytes go to a hidden copy beside it, which a repair restores it from.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from optgeom.traces.errors import DamagedTrace, TraceError, TraceExists
from optgeom.traces.files.address import masked
from optgeom.traces.files.durable import fsync_folder, replace_file, write_aside
from optgeom.traces.files.place import Place
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo, dump, parse
from optgeom.traces.names import TEMPORARY

_LOG = logging.getLogger(__name__)
_COPY_FAILED: set[str] = set()


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
            f"this is written to local folders, not to {masked(text)!r}: write to a folder, then "
            "run `optgeom trace upload`"
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


def shown_of(where: Path | Place) -> str:
    """How a folder or a place is called in messages, without secrets."""
    return where.shown if isinstance(where, Place) else str(where)


def exists(where: Path | Place) -> TraceExists:
    """The error of a place that holds a trace already."""
    return TraceExists(
        f"{shown_of(where)} already holds a trace: write to another folder, "
        "or pass start_step=N to resume it as a new attempt"
    )


def has_run(where: Path | Place) -> bool:
    """Whether there is a run.json.

    Raises:
        TraceError: an object store does not answer, or refuses.
    """
    return where.has(RUN_FILE) if isinstance(where, Place) else (where / RUN_FILE).exists()


def read_run(where: Path | Place) -> RunInfo:
    """Read run.json.

    Raises:
        FileNotFoundError: there is none.
        DamagedTrace: it is truncated, or its bytes changed.
        SchemaTooNew: a newer optgeom wrote it.
        TraceError: an object store does not answer, or refuses.
    """
    return _read(where, RUN_FILE)


def find_run(where: Path | Place) -> RunInfo | None:
    """What run.json says, or its copy where it is damaged; None where neither says anything.

    Raises:
        SchemaTooNew: a newer optgeom wrote it.
        TraceError: an object store does not answer, or refuses.
    """
    for file in (RUN_FILE, RUN_COPY):
        try:
            return _read(where, file)
        except FileNotFoundError:
            if file == RUN_FILE:
                return None  # it was removed, and the copy is not what anybody meant
        except DamagedTrace as error:
            _LOG.warning("%s", error)
    return None


def create_run(where: Path | Place, info: RunInfo) -> None:
    """Make a run.json where there is none.

    In an object store a claim must keep others away meanwhile.

    Raises:
        TraceExists: another process was faster.
        TraceError: an object store does not answer, or refuses.
        OSError: it cannot be written.
    """
    data = dump(info)
    if isinstance(where, Place):
        if where.has(RUN_FILE):
            raise exists(where)
        where.write(RUN_FILE, data)
    else:
        made = write_aside(where / RUN_FILE, data)
        try:
            # a link, unlike a rename, fails if another process was faster
            os.link(made, where / RUN_FILE)
        except FileExistsError as error:
            raise exists(where) from error
        finally:
            made.unlink(missing_ok=True)
        fsync_folder(where)
    _copy(where, data)


def replace_run(where: Path | Place, info: RunInfo, *, copy: bool = True) -> bool:
    """Replace run.json, so that a reader sees the old or the new one.

    Args:
        where: the run's folder or place.
        info: what it shall say.
        copy: replace the copy too: it says something else.

    Returns:
        Whether the copy says the same.

    Raises:
        TraceError: an object store does not answer, or refuses.
        OSError: it cannot be written.
    """
    data = dump(info)
    if isinstance(where, Place):
        where.write(RUN_FILE, data)
    else:
        replace_file(where / RUN_FILE, data)
    return _copy(where, data) if copy else True


def remove_run(where: Path | Place) -> None:
    """Remove run.json and its copy, as far as they are there.

    Raises:
        TraceError: an object store does not answer, or refuses.
        OSError: they cannot be removed.
    """
    for file in (RUN_FILE, RUN_COPY):
        if isinstance(where, Place):
            where.remove(file)
        else:
            (where / file).unlink(missing_ok=True)


def _read(where: Path | Place, file: str) -> RunInfo:
    if isinstance(where, Path):
        return parse((where / file).read_bytes(), str(where / file))
    try:
        return parse(where.read(file), where.of(file))
    except DamagedTrace:
        # it may be replaced between the asking for its size and for its bytes
        return parse(where.read(file), where.of(file))


def _copy(where: Path | Place, data: bytes) -> bool:
    """A copy that cannot be written costs a repair, not the run."""
    try:
        if isinstance(where, Place):
            where.write(RUN_COPY, data)
        else:
            replace_file(where / RUN_COPY, data)
        return True
    except (OSError, TraceError) as error:
        shown = shown_of(where)
        if shown not in _COPY_FAILED:
            _COPY_FAILED.add(shown)
            _LOG.warning("%s: the copy of run.json cannot be written: %s", shown, error)
        return False
