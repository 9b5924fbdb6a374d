"""Where a trace is read from: a local folder, or any URI that pyarrow.fs opens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from optgeom.traces.errors import NotATrace, TraceError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file's size in bytes and its time of change in nanoseconds."""

    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in a file system; paths within it are relative, with forward slashes.

    Attributes:
        shown: the path or URI as it was typed; for messages, never to find a file by.
        filesystem: where `root` is.
        root: absolute, so that a later change of the current folder moves nothing.
    """

    shown: str
    filesystem: fs.FileSystem
    root: str

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.rstrip("/").rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is in a local file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def local(self) -> Path:
        """The folder to write to, absolute.

        Raises:
            TraceError: it is not in a local file system.
        """
        if not self.is_local:
            raise TraceError(
                f"{self.shown} is not a local folder: copy the trace to one, and write there"
            )
        return Path(self.root)

    def below(self, path: str) -> Place:
        """The folder `path` of this one."""
        return Place(
            f"{self.shown.rstrip('/')}/{path}", self.filesystem, f"{self.root.rstrip('/')}/{path}"
        )

    def entries(self, folder: str = "", *, recursive: bool = True) -> dict[str, Entry]:
        """The files in a folder of this one, hidden ones too, by path relative to this one."""
        return {
            self._relative(one.path): Entry(one.size or 0, one.mtime_ns or 0)
            for one in self._infos(folder, recursive=recursive)
            if one.type == fs.FileType.File
        }

    def folders(self) -> list[str]:
        """The names of the folders in this one, sorted."""
        found = self._infos("", recursive=False)
        return sorted(one.base_name for one in found if one.type == fs.FileType.Directory)

    def is_folder(self) -> bool:
        """Whether the folder is there."""
        kind = self.filesystem.get_file_info(self.root).type
        return bool(kind == fs.FileType.Directory)

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        kind = self.filesystem.get_file_info(f"{self.root}/{path}").type
        return bool(kind == fs.FileType.File)

    def open(self, path: str) -> pa.NativeFile:
        """Random access to a file; FileNotFoundError if it has gone."""
        return self.filesystem.open_input_file(f"{self.root}/{path}")

    def read(self, path: str, offset: int = 0) -> pa.Buffer:
        """A file's bytes from `offset` to its end; FileNotFoundError if it has gone."""
        with self.open(path) as file:
            if offset:
                file.seek(offset)
            return file.read_buffer()

    def of(self, path: str) -> str:
        """How a file is called in errors."""
        return f"{self.shown.rstrip('/')}/{path}"

    def _infos(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        path = f"{self.root}/{folder}" if folder else self.root
        selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
        found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
        return found

    def _relative(self, path: str) -> str:
        return path[len(self.root.rstrip("/")) + 1 :]


def find(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URI.

    Raises:
        NotATrace: the path is empty, or the URI names a file system that pyarrow.fs does not open.
    """
    text = os.fspath(path)
    if not text:
        raise NotATrace("an empty path is no folder: pass the folder that a run wrote to, or '.'")
    if "://" not in text:
        return Place(text, fs.LocalFileSystem(), os.path.abspath(text))
    try:
        filesystem, root = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotATrace(f"{text} cannot be opened: {str(error).partition(chr(10))[0]}") from error
    return Place(text, filesystem, root)
