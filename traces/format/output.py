"""The file that a segment is written to, with a checksum of each row group."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

_BUFFER = 1 << 18
_PIECE = 1 << 20
_CAN_ADVISE = hasattr(os, "posix_fadvise")


class SummedFile:
    """A file that Arrow writes without asking Python, and that is read back for its checksums.

    What comes through Python waits for the interpreter's lock, which a training run holds, and is
    copied on the way. Reading a row group back while it is in the page cache costs less; large ones
    are read while the next is being written.

    Args:
        path: made anew; removed by `close` unless it was renamed.

    Attributes:
        stream: where Arrow writes to.
    """

    def __init__(self, path: Path):
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            # Arrow writes headers in small pieces
            self.stream = pa.BufferedOutputStream(pa.OSFile(str(path), "wb"), _BUFFER)
        except BaseException:
            os.close(self._handle)
            path.unlink(missing_ok=True)
            raise
        self._groups = self._end = 0
        self._sums: list[tuple[int, int]] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def end_group(self) -> None:
        """What was written since the last call is a row group."""
        self.stream.flush()
        start, self._end = self._end, self.size()
        self._groups += 1
        self._wait()
        if self._end - start >= _PIECE:
            thread = threading.Thread(target=self._sum, args=(start, self._end), daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter ends
                self._sum(start, self._end)
        else:
            self._sum(start, self._end)

    @property
    def sums(self) -> list[tuple[int, int]]:
        """Where each row group ends, and the CRC-32 of its bytes.

        Raises:
            OSError: they could not be read back; or whatever else kept them from it.
        """
        self._wait()
        if self._error is not None:
            raise self._error
        if len(self._sums) < self._groups:
            raise OSError(errno.EIO, f"{self._path.name} lost a checksum")
        return self._sums

    def sync(self) -> None:
        """Have all of it on the disk."""
        self.stream.flush()
        os.fsync(self._handle)

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._handle).st_size

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """Some bytes."""
        return os.pread(self._handle, nbytes, offset)

    def close(self) -> None:
        """Close it, and remove what was not renamed; any number of times."""
        self._wait()
        if self._handle < 0:
            return
        with suppress(pa.ArrowException, OSError):
            self.stream.close()
        os.close(self._handle)
        self._handle = -1
        self._path.unlink(missing_ok=True)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _sum(self, start: int, end: int) -> None:
        try:
            self._sums.append((end, self._crc(start, end)))
            if end - start >= _PIECE and _CAN_ADVISE:
                # the disk begins with it now, and the sync at the end has less to wait for
                os.posix_fadvise(self._handle, start, end - start, os.POSIX_FADV_DONTNEED)
        except BaseException as error:  # noqa: BLE001  raised where the sums are asked for
            self._error = error

    def _crc(self, start: int, end: int) -> int:
        crc, buffer = 0, memoryview(bytearray(min(_PIECE, max(end - start, 1))))
        while start < end:
            count = os.preadv(self._handle, [buffer[: end - start]], start)
            if not count:
                raise OSError(errno.EIO, f"{self._path.name} lost what was written to it")
            crc = zlib.crc32(buffer[:count], crc)
            start += count
        return crc


@contextmanager
def named_by_number() -> Iterator[None]:
    """An error of the file system in the system's words, not in Arrow's."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, os.strerror(error.errno)) from error
