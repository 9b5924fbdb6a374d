"""Some byte ranges of a file, fetched at once, and handed to Arrow as if they were the file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import pyarrow as pa

_GAP = 1 << 17


class Reads(Protocol):
    """What ranges are read from, by any number of threads at once."""

    def size(self) -> int:
        """In bytes."""

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """Some bytes; fewer where the file ends."""


@dataclass(frozen=True, slots=True)
class Window:
    """Byte ranges of a file, ascending and apart.

    Attributes:
        size: the whole file's, in bytes.
        starts: where each range begins.
        pieces: its bytes.
    """

    size: int
    starts: tuple[int, ...]
    pieces: tuple[bytes, ...]

    @classmethod
    def read(cls, file: Reads, size: int, ranges: Iterable[tuple[int, int]]) -> Self:
        """Fetch ranges, those that lie close together as one.

        Args:
            file: to read from.
            size: its size.
            ranges: begin and end of each.

        Raises:
            EOFError: the file ends before one of them does.
        """
        merged: list[list[int]] = []
        for start, end in sorted(ranges):
            if merged and start - merged[-1][1] <= _GAP:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        pieces = []
        for start, end in merged:
            piece = file.read_at(end - start, start)
            if len(piece) < end - start:
                raise EOFError
            pieces.append(piece)
        return cls(size, tuple(start for start, _ in merged), tuple(pieces))

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return sum(map(len, self.pieces))

    def at(self, start: int, nbytes: int) -> memoryview:
        """Bytes of one range, without a copy.

        Raises:
            EOFError: they were not fetched.
        """
        number = bisect_right(self.starts, start) - 1
        if number >= 0:
            begin = start - self.starts[number]
            if begin + nbytes <= len(self.pieces[number]):
                return memoryview(self.pieces[number])[begin : begin + nbytes]
        raise EOFError(f"bytes {start} to {start + nbytes} were not fetched")

    def open(self) -> pa.PythonFile:
        """A file for one reader: several may read one window at once."""
        return pa.PythonFile(_Cursor(self), "r")


class _Cursor:
    """The part of Python's file protocol that Arrow calls."""

    closed = False

    def __init__(self, window: Window):
        self._window = window
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._window.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, nbytes: int) -> memoryview:
        found = self._window.at(self._at, nbytes)
        self._at += nbytes
        return found

    def close(self) -> None:
        """Nothing to close: the bytes are in memory."""
