"""A trace's folder in a local file system, which reading it does not leave.

Links that lead out of the folder, pipes and devices are refused by name, before anything is opened;
links within it are followed.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.limits import MAX_FILES, refuse
from optgeom.traces.names import parse_name

_DEEPEST = 4


def local_files(
    root: str, folder: str, *, recursive: bool, odd: dict[str, str] | None = None
) -> dict[str, os.stat_result]:
    """The files in a folder of a trace, by path relative to the trace; none where it is not there.

    What is neither a file nor a folder is left out, unless it is called like a file of a trace.

    Args:
        root: the trace's folder, which may itself be a link.
        folder: within it; empty: itself.
        recursive: those in its folders too, but not in folders that are links.
        odd: gets what is called like a segment or a stream and is no file, by path, and what it is
            instead ("a folder"); None: that is an error.

    Raises:
        DamagedTrace: the folder, or what is in it, is a link that leads out of the trace; there
            are more files than any trace has; it is no folder; or what is called like a segment or
            a stream is no file.
    """
    found: dict[str, os.stat_result] = {}
    check_links(root, folder)
    _collect(root, folder, found, odd, _DEEPEST if recursive else 0)
    return found


def check_file(root: str, path: str) -> None:
    """Raise DamagedTrace unless a path is a file within the trace; FileNotFoundError if it is not.

    Args:
        root: the trace's folder.
        path: within it.
    """
    kind = _other_kind(root, path)
    if kind:
        raise DamagedTrace(f"{root}/{path} is no file but {kind}: it is not opened")


def _other_kind(root: str, path: str) -> str:
    """What a path within a trace is that is no file; empty if it is one. Errors: see check_file."""
    check_links(root, path)
    try:
        mode = os.stat(f"{root}/{path}").st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        mode = stat.S_IFLNK
    return "" if stat.S_ISREG(mode) else _kind(mode)


def _collect(
    root: str,
    folder: str,
    found: dict[str, os.stat_result],
    odd: dict[str, str] | None,
    deeper: int,
) -> None:
    try:
        entries = os.scandir(f"{root}/{folder}" if folder else root)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise DamagedTrace(f"{root}/{folder} is no folder: no run wrote it") from None
    with entries:
        for count, entry in enumerate(entries, start=1):
            refuse(f"{root}/{folder}", "files", count, MAX_FILES)
            path = f"{folder}/{entry.name}" if folder else entry.name
            is_link, is_ours = entry.is_symlink(), folder and parse_name(entry.name) is not None
            if is_link and folder:
                check_links(root, path)
            if not is_link and not is_ours and entry.is_dir():
                if deeper:
                    _collect(root, path, found, odd, deeper - 1)
                continue
            with suppress(FileNotFoundError):  # gone since, or a link to nothing
                if is_ours and odd is None:
                    check_file(root, path)
                elif is_ours and odd is not None and (kind := _other_kind(root, path)):
                    odd[path] = kind
                    continue
                if entry.is_file():
                    found[path] = entry.stat()


def check_links(root: str, path: str) -> None:
    """Raise DamagedTrace if a path within a trace leads out of it by a link.

    Args:
        root: the trace's folder, which may itself be a link.
        path: within it; need not be there.
    """
    at = root
    for name in path.split("/") if path else ():
        at = f"{at}/{name}"
        if os.path.islink(at):
            break
    else:
        return
    home, real = os.path.realpath(root), os.path.realpath(f"{root}/{path}")
    if os.path.commonpath([home, real]) != home:
        raise DamagedTrace(
            f"{root}/{path} is a link that leads out of the trace, to {real}: it is not followed. "
            "Copy the trace with its links resolved (cp -RL)"
        )


def _kind(mode: int) -> str:
    for check, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a link to itself"),
    ):
        if check(mode):
            return kind
    return "a device"
