"""Where a trace is: a local folder, or any URI that pyarrow.fs opens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from pyarrow import fs

from optgeom.traces.errors import NotATrace, TraceError
from optgeom.traces.files.address import MASK, below, is_uri, masked, scrubbed, without_query
from optgeom.traces.files.inside import check_file, local_files
from optgeom.traces.limits import MAX_STREAM_BYTES, refuse
from optgeom.traces.names import temporary

_ATTEMPTS = 3
_CONNECT_SECONDS = 3.0
_SILENT_SECONDS = 10.0
# below what Arrow uploads in one request
_IN_PARTS = 8 << 20
# where an object appears when its stream is closed, and not before
_WHOLE_AT_CLOSE = frozenset({"s3", "gcs"})
_BUCKETS = frozenset({"s3", "gcs", "abfs"})
_GONE = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND")
_UNANSWERED = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT")
_CHECK = "check the address, the credentials and the network"
_COPY = "copy the trace to a local folder and write there"


class NoAnswer(TraceError):
    """Nothing has answered, in all the time that a request may take: another would not help."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file's size in bytes and its time of change in nanoseconds."""

    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in a file system; paths within it are relative, with forward slashes.

    Attributes:
        shown: the path or URI as it was typed, its secrets masked; for messages, never to find a
            file by.
        filesystem: where `root` is.
        root: absolute, so that a later change of the current folder moves nothing.
        address: the URI as it was typed, secrets and all; empty where there is none.
    """

    shown: str
    filesystem: fs.FileSystem
    root: str
    address: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.rstrip("/").rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is in a local file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def lists_by_name(self) -> bool:
        """Whether a listing shows names in their order, each as it was when its turn came."""
        return self.filesystem.type_name in _BUCKETS

    @property
    def uri(self) -> str:
        """What `find` finds it by in any process: an absolute path, or a URI with its secrets."""
        return self.root if self.is_local else self.address or self.shown

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
            below(self.shown, path),
            self.filesystem,
            f"{self.root.rstrip('/')}/{path}",
            below(self.address, path) if self.address else "",
        )

    def entries(
        self, folder: str = "", *, recursive: bool = True, odd: dict[str, str] | None = None
    ) -> dict[str, Entry]:
        """The files in a folder of this one, hidden ones too, by path relative to this one.

        Args:
            folder: within this one; empty: itself.
            recursive: those in its folders too.
            odd: see inside.local_files; in an object store there is nothing of that kind.

        Raises:
            DamagedTrace: see inside.local_files.
        """
        if self.is_local:
            found = local_files(self.root, folder, recursive=recursive, odd=odd)
            return {path: Entry(one.st_size, one.st_mtime_ns) for path, one in found.items()}
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
        return bool(self._kind(self.root) == fs.FileType.Directory)

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        return bool(self._kind(f"{self.root}/{path}", path) == fs.FileType.File)

    def missing(self) -> str:
        """Why `is_folder` says no, for an error."""
        if self.lacks_bucket():
            bucket = self.root.partition("/")[0]
            return f"{self.shown} is not there: no bucket {bucket!r}, or not for this account"
        if self.filesystem.type_name in _BUCKETS and "/" in self.root:
            return f"{self.shown} is no folder: its bucket holds nothing under that name"
        return f"{self.shown} is no folder"

    def lacks_bucket(self) -> bool:
        """Whether it is in a bucket that is not there, or not for this account."""
        bucket, _, within = self.root.partition("/")
        is_within = self.filesystem.type_name in _BUCKETS and bool(within)
        return is_within and bool(self._kind(bucket) == fs.FileType.NotFound)

    def open(self, path: str) -> OpenFile:
        """Random access to a file; FileNotFoundError if it has gone.

        Raises:
            DamagedTrace: it is a pipe or a device, or a link that leads out of this place.
        """
        if self.is_local:
            check_file(self.root, path)
        with self.answering(path):
            return OpenFile(self, path, self.filesystem.open_input_file(f"{self.root}/{path}"))

    def read(self, path: str, offset: int = 0) -> bytes:
        """A file's bytes from `offset` to its end; FileNotFoundError if it has gone.

        Raises:
            DamagedTrace: as for open; or there are more than of any file that is read as a whole.
        """
        with self.open(path) as file:
            size = max(file.size() - offset, 0)
            refuse(self.of(path), "bytes", size, MAX_STREAM_BYTES)
            return file.read_at(size, offset)

    def write(self, path: str, data: bytes) -> None:
        """Make a file appear, whole or not at all; for file systems that are not local.

        Raises:
            TraceError: it cannot be written; nothing is left behind.
        """
        self._appear(path, data)

    def put(self, path: str, source: Path) -> None:
        """Make a file appear with the bytes of a local one, whole or not at all.

        The bytes are mapped, not taken into memory. For file systems that are not local.

        Args:
            path: within this place.
            source: must not become shorter meanwhile.

        Raises:
            TraceError: it cannot be written; nothing is left behind.
            OSError: `source` cannot be read.
        """
        with pa.memory_map(str(source), "r") as file:
            self._appear(path, file.read_buffer())

    def remove(self, path: str) -> None:
        """Remove a file; no error if it has gone.

        Raises:
            TraceError: the file system refuses, or does not answer.
        """
        try:
            self.filesystem.delete_file(f"{self.root}/{path}")
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError, NotImplementedError) as error:
            if any(one in str(error) for one in _GONE):
                return
            raise self._failure(path, "removed", error) from None

    def _appear(self, path: str, data: bytes | pa.Buffer) -> None:
        final = f"{self.root}/{path}"
        folder, _, name = final.rpartition("/")
        at_once = self.filesystem.type_name in _WHOLE_AT_CLOSE
        target = final if at_once else f"{folder}/{temporary(name)}"
        unfit = not at_once
        try:
            filesystem = _for_writing(self.filesystem, len(data))
            if not at_once:
                filesystem.create_dir(folder, recursive=True)
            try:
                # one write of all: there is no way to close a stream without what it was handed,
                # and half of an object would appear like a whole one
                with filesystem.open_output_stream(target, compression=None) as stream:
                    unfit = True
                    stream.write(data)
                    unfit = not at_once
                if not at_once:
                    filesystem.move(target, final)
            except BaseException:
                # an upload that fails at its beginning or end leaves what was there as it is
                if unfit:
                    with suppress(pa.ArrowException, OSError):
                        filesystem.delete_file(target)
                raise
        except (pa.ArrowException, OSError, NotImplementedError) as error:
            way_out = _COPY if isinstance(error, NotImplementedError) else _CHECK
            raise self._failure(path, "written", error, way_out) from None

    def of(self, path: str) -> str:
        """How a file is called in errors."""
        return f"{without_query(self.shown).rstrip('/')}/{path}" if path else self.shown

    def reason(self, error: BaseException) -> str:
        """One line of an error of the file system, without the secrets of the address."""
        line = re.sub(r" ?\(Request ID: [^)]*\)", "", scrubbed(str(error), self.address))
        return line.rstrip(".: ") or type(error).__name__

    @contextmanager
    def answering(self, path: str = "") -> Iterator[None]:
        """A file system elsewhere that fails is a TraceError that names the file; not a damage.

        FileNotFoundError stays what it is, and so does every error of a local file system.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            if self.is_local:
                raise
            if any(one in str(error) for one in _GONE):
                raise FileNotFoundError(self.of(path)) from None
            raise self._failure(path, "read", error) from None

    def _failure(self, path: str, what: str, error: Exception, way_out: str = _CHECK) -> TraceError:
        kind = NoAnswer if any(one in str(error) for one in _UNANSWERED) else TraceError
        return kind(f"{self.of(path)} cannot be {what}: {self.reason(error)}: {way_out}")

    def _kind(self, path: str, shown: str = "") -> fs.FileType:
        with self.answering(shown):
            return self.filesystem.get_file_info(path).type

    def _infos(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        path = f"{self.root}/{folder}" if folder else self.root
        selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
        with self.answering(folder):
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
        return found

    def _relative(self, path: str) -> str:
        return path[len(self.root.rstrip("/")) + 1 :]


class OpenFile:
    """A file of a place, read at offsets by any number of threads at once; closed by `with`.

    Args:
        place: where it is.
        path: within it.
        file: what the file system has opened.
    """

    def __init__(self, place: Place, path: str, file: pa.NativeFile):
        self._place, self._path, self._file = place, path, file

    def size(self) -> int:
        """In bytes."""
        with self._place.answering(self._path):
            return int(self._file.size())

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """Some bytes, in one request; fewer where the file ends.

        Raises:
            FileNotFoundError: it has gone from an object store.
            TraceError: a file system elsewhere does not answer.
        """
        with self._place.answering(self._path):
            found: bytes = self._file.read_at(nbytes, offset)
            return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; any number of times."""
        self._file.close()


def find(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URI.

    Raises:
        NotATrace: the path is empty, or the URI names no bucket, or a file system that pyarrow.fs
            does not open.
    """
    text = os.fspath(path)
    if not text:
        raise NotATrace("an empty path is no folder: pass the folder that a run wrote to, or '.'")
    if not is_uri(text):
        return Place(text, fs.LocalFileSystem(), os.path.abspath(text))
    shown = masked(text)
    if f"//{MASK}@" in text:
        raise NotATrace(f"{shown} was shown without its keys: pass the URI that they stand in")
    said = ""
    try:
        filesystem, root = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = scrubbed(str(error), text)
    if said:
        # not from that error, nor in its handler: Arrow quotes what it was given
        raise NotATrace(f"{shown} cannot be opened: {said}")
    if filesystem.type_name in _BUCKETS and not root.strip("/"):
        raise NotATrace(f"{shown} names no bucket: pass one, such as s3://bucket/runs/a")
    return Place(shown, _bounded(filesystem), root, text)


def _for_writing(filesystem: fs.FileSystem, size: int) -> fs.FileSystem:
    """The same file system, that begins the upload of a large object when it is opened.

    If the beginning fails later, at the first write, closing makes an empty object.
    """
    if filesystem.type_name != "s3" or size < _IN_PARTS:
        return filesystem
    options = dict(filesystem.__reduce__()[1][0]) | {"allow_delayed_open": False}
    return _s3(options)


def _bounded(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same file system, that gives up in time.

    Made of a URI, S3 asks a server that does not answer for more than a minute and a half, each
    time; nothing in the URI changes that. Its options are those that it is pickled by.
    """
    if filesystem.type_name != "s3":
        return filesystem
    options = dict(filesystem.__reduce__()[1][0])
    options |= {
        "connect_timeout": _CONNECT_SECONDS,
        "request_timeout": _SILENT_SECONDS,
        # one PUT for a small object, not the three requests of an upload in parts
        "allow_delayed_open": True,
    }
    return _s3(options)


def _s3(options: dict[str, Any]) -> fs.FileSystem:
    return fs.S3FileSystem(
        **options, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
    )
