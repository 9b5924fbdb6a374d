"""Files that are written as a whole: aside, flushed to the disk, and renamed.

A reader sees what was there before or what is there now, also after a power cut.
"""

from __future__ import annotations

import os
from pathlib import Path

from optgeom.traces.names import temporary


def replace_file(path: Path, data: bytes) -> None:
    """Make or replace a file.

    Args:
        path: of it, in a folder that exists.
        data: all of its bytes.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    made = write_aside(path, data)
    try:
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_aside(path: Path, data: bytes) -> Path:
    """Write what shall be a file under a hidden name beside it; returns where it is.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    made = path.with_name(temporary(path.name))
    try:
        with made.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def fsync_folder(folder: Path) -> None:
    """Make a rename in the folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
