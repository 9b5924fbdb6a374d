"""Where a computed trace stands: beside its run, in place of what was computed before, or nowhere.

Nothing is replaced that is not a trace computed from the same run, whole and alone in its folder;
that is looked at before computing, and again, of what has been moved aside, when the new one is
put there. A rename onto a folder that holds something fails, so that of two at once one is refused.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from optgeom.geometry.counterfactual.rule import Rule
from optgeom.traces.errors import DamagedTrace, TraceError, TraceExists
from optgeom.traces.files.listing import DERIVED
from optgeom.traces.files.lock import is_lock
from optgeom.traces.info import RUN_COPY, RUN_FILE
from optgeom.traces.names import TEMPORARY, is_stream, parse_name
from optgeom.traces.schema import TABLES
from optgeom.traces.store import Trace
from optgeom.traces.writing.runfile import local_folder, read_run

ASIDE = "replaced"
"""The folder, within the hidden one, that holds what is being replaced."""

_HERE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
"""This machine: a folder may be shared with others, whose processes are not seen here."""

_HIDDEN = re.compile(rf"{re.escape(TEMPORARY)}whatif-{_HERE}-(\d+)-[0-9a-f]+")


def folder_of(trace: Trace, out: str | os.PathLike[str] | None) -> Path:
    """The local folder that computed traces are written into.

    Args:
        trace: The run.
        out: As the user named it; None: the folder that the run stands in.

    Raises:
        TraceError: `out` is None and the run is in an object store, or `out` is in one, or is a
            trace, or within the run.
    """
    if out is None:
        if not trace.place.is_local:
            raise TraceError(
                f"{trace.path} is in an object store, and this is written to local folders: "
                "pass out=, the folder to write the computed traces to"
            )
        return trace.folder().parent
    folder = local_folder(out)
    real = folder.resolve()
    if trace.place.is_local and trace.folder().resolve() in (real, *real.parents):
        raise TraceError(f"{folder} is in the run itself: pass as out a folder beside it")
    if (folder / RUN_FILE).exists():
        raise TraceError(
            f"{folder} is a trace: pass as out the folder that it stands in, or another"
        )
    return folder


def target_of(trace: Trace, rule: Rule, folder: Path, *, overwrite: bool) -> Path:
    """Where a rule's trace goes.

    Raises:
        TraceExists: something is there that may not be replaced.
    """
    target = folder / f"{trace.name}+{rule.suffix}"
    _refuse(target, target, trace, rule, overwrite=overwrite)
    return target


def hidden_in(folder: Path) -> Path:
    """A new name for the folder that a trace is made in."""
    return folder / f"{TEMPORARY}whatif-{_HERE}-{os.getpid()}-{secrets.token_hex(4)}"


def put(made: Path, target: Path, trace: Trace, rule: Rule, *, overwrite: bool) -> None:
    """Put a whole trace in its place; what it replaces is deleted once it stands there.

    Args:
        made: The trace, by its final name, in a hidden folder beside `target`.
        target: Where it shall stand.
        trace: The run that it was computed from.
        rule: The rule.
        overwrite: Whether what was computed from the run before is replaced.

    Raises:
        TraceExists: something has appeared there that may not be replaced; it is left as it is.
        TraceError: it cannot be put there.
    """
    _refuse(target, target, trace, rule, overwrite=overwrite)
    aside = made.parent / ASIDE / target.name
    if overwrite:
        _move_aside(target, aside)
    try:
        # what was changed between the look at it and its move is seen here
        _refuse(aside, target, trace, rule, overwrite=overwrite)
        made.rename(target)  # which fails on a file, and on a folder with something in it
    except TraceExists as error:
        raise TraceExists(f"{error}{_back(aside, target)}") from None
    except OSError as error:
        has_appeared = os.path.lexists(target)
        where = _back(aside, target)
        if has_appeared:
            raise TraceExists(
                f"{target} has appeared while it was computed: pass another out{where}"
            ) from error
        raise TraceError(f"{target} could not be written ({error.strerror}){where}") from error
    shutil.rmtree(made.parent, ignore_errors=True)


def clear_dead(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder, and nothing else.

    A trace that was aside when its process was killed is put back, or beside what has replaced it.
    """
    for hidden in [*folder.glob(f"{TEMPORARY}whatif-*")] if folder.is_dir() else []:
        match = _HIDDEN.fullmatch(hidden.name)
        if match is None or hidden.is_symlink() or _lives(int(match.group(1))):
            continue
        try:
            for aside in hidden.glob(f"{ASIDE}/*"):
                _back(aside, folder / aside.name)
        except OSError:
            continue  # it stays; or another process is clearing it
        shutil.rmtree(hidden, ignore_errors=True)


def _move_aside(target: Path, aside: Path) -> None:
    aside.parent.mkdir()
    try:
        target.rename(aside)
    except FileNotFoundError:
        return  # there is none, or another process was faster
    except OSError as error:
        raise TraceError(f"{target} cannot be replaced ({error.strerror})") from error


def _back(aside: Path, target: Path) -> str:
    """Put what was aside back, or beside what has come there: nothing is lost; and say where."""
    if not aside.exists():
        return ""
    if not os.path.lexists(target):
        with suppress(OSError):
            aside.rename(target)
            return ""
    beside = target.with_name(f"{target.name}.replaced-{secrets.token_hex(4)}")
    aside.rename(beside)
    return f"; what was there before is {beside}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _refuse(at: Path, target: Path, trace: Trace, rule: Rule, *, overwrite: bool) -> None:
    """Refuse what may not be replaced.

    Args:
        at: Where it is looked at.
        target: How it is called.
        trace: The run.
        rule: The rule.
        overwrite: Whether what was computed from the run may be replaced.
    """
    if at.is_symlink():
        raise TraceExists(
            f"{target} is a link, which is not followed: remove it, or pass another out"
        )
    if not at.exists():
        return
    if not _is_ours(at, trace):
        raise TraceExists(
            f"{target} is there, and was not computed from {trace.name} by whatif: pass another out"
        )
    if not overwrite:
        raise TraceExists(
            f"{target} already holds what {rule.name} makes of {trace.name}: pass overwrite=True "
            "(--overwrite) to compute it again, or another out"
        )
    foreign = next(_foreign(at), None)
    if foreign is not None:
        raise TraceExists(
            f"{target / foreign} is no part of a trace, and replacing {target.name} would delete "
            "it: move it elsewhere, or pass another out"
        )


def _is_ours(target: Path, trace: Trace) -> bool:
    try:
        found = read_run(target).computed
    except (OSError, DamagedTrace, TraceError):
        return False
    return found.get("from") == trace.info.run and found.get("from_created") == trace.info.created


def _foreign(folder: Path) -> Iterator[Path]:
    """What no writer of traces makes there: relative paths; links count, wherever they point."""
    for base, folders, files in os.walk(folder):
        within = Path(base).relative_to(folder)
        for name in sorted(folders):
            path = within / name
            is_known = path.parts[0] == DERIVED if len(path.parts) == 2 else name in _FOLDERS
            if len(path.parts) > 2 or not is_known or (folder / path).is_symlink():
                yield path
        for name in sorted(files):
            path = within / name
            if (folder / path).is_symlink() or not _is_of_a_trace(path):
                yield path


_FOLDERS = (*TABLES, DERIVED)
_FILES = (RUN_FILE, RUN_COPY)


def _is_of_a_trace(path: Path) -> bool:
    if path.name.startswith(TEMPORARY):
        return True
    if len(path.parts) == 1:
        return path.name in _FILES or is_lock(path.name)
    return path.parts[0] in _FOLDERS and (parse_name(path.name) is not None or is_stream(path.name))
