"""Reading sealed segments: nothing is parsed before it was compared with its checksum.

Parquet's page checksums cover the data in the pages, not their headers nor the footer, and a
flipped bit there can end the process or read back as wrong numbers. So a digest over the footer
stands in the file's name, and the footer holds a CRC-32 of the bytes of each row group.

What is parsed is what was compared: bytes are fetched once, by ranges, and Arrow never touches the
file itself. So a file system that fails is no damage, and an object store is asked as rarely as can
be.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.keys import Codes
from optgeom.traces.window import Reads, Window

SUMS = b"optgeom.crc32"
INDEX = b"optgeom.index"
_TAIL = 8
_MAGIC = b"PAR1"
_FOOTER_GUESS = 1 << 16
_PARSED = 12


class Footer:
    """What the end of a segment says of it; never changed, and so shared by threads.

    Args:
        data: its bytes, as `read_footer` returns them.
        name: how to call the segment in errors.
        digest: the digest from its name.
        size: of the whole segment, in bytes.

    Attributes:
        size: as above.
        metadata: Parquet's.
        schema: the columns.
        ends: the row after each row group, (g,) int64.
        nbytes: what it takes in memory, about.

    Raises:
        DamagedTrace: it changed.
    """

    def __init__(self, data: bytes, name: str, digest: str, size: int):
        check_footer(data, name, digest)
        self._name, self.size = name, size
        try:
            parquet = pq.ParquetFile(pa.BufferReader(data))
            self.schema: pa.Schema = parquet.schema_arrow
            self.metadata: pq.FileMetaData = parquet.metadata
            self._notes: dict[bytes, bytes] = self.metadata.metadata or {}
            self._sums: list[tuple[int, int]] = json.loads(self._notes.get(SUMS, b"[]"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error
        groups = map(self.metadata.row_group, range(self.metadata.num_row_groups))
        self.ends: Codes = np.cumsum([one.num_rows for one in groups], dtype=np.int64)
        index = len(self._notes.get(INDEX, b""))
        # parsed, it takes a multiple of what it takes in the file: a kilobyte for each column of
        # each row group
        self.nbytes = _PARSED * (len(data) - index) + 2 * index

    @classmethod
    def read(cls, file: Reads, name: str, digest: str) -> Self:
        """Read and parse it.

        Args:
            file: the whole segment.
            name: how to call it in errors.
            digest: the digest from its name.

        Raises:
            DamagedTrace: the file is truncated, or its footer changed.
        """
        size = file.size()
        return cls(read_footer(file, name, size), name, digest, size)

    @property
    def groups(self) -> range:
        """The numbers of the row groups."""
        return range(len(self.ends))

    @property
    def indexed(self) -> bool:
        """Whether it holds a copy of all columns but the large ones."""
        return INDEX in self._notes

    def index(self, names: Sequence[str] | None = None) -> pa.Table | None:
        """The footer's copy of all columns but the large ones; None where it has none.

        Args:
            names: only these columns; None: all.

        Raises:
            DamagedTrace: it is of other rows.
        """
        if INDEX not in self._notes:
            return None
        try:
            data = pa.py_buffer(base64.b64decode(self._notes[INDEX], validate=True))
            there = pa.ipc.open_stream(data).schema.names
            wanted = there if names is None else list(names)
            options = pa.ipc.IpcReadOptions(included_fields=[there.index(one) for one in wanted])
            table = pa.ipc.open_stream(data, options=options).read_all().select(wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedTrace(f"{self._name} is damaged: {_first_line(error)}") from error
        if table.num_rows != self.metadata.num_rows:
            raise DamagedTrace(f"{self._name} is damaged: its index is of {table.num_rows} rows")
        return table

    def whole(self, group: int) -> tuple[int, int, int]:
        """Where the bytes of a row group begin and end, and their CRC-32.

        Raises:
            DamagedTrace: the footer does not say: something else wrote the file.
        """
        if len(self._sums) != len(self.groups):
            raise DamagedTrace(f"{self._name} is no segment of a trace: its checksums are missing")
        return (self._sums[group - 1][0] if group else 0, *self._sums[group])

    def chunks(self, group: int, names: Collection[str] | None) -> list[tuple[int, int]]:
        """Where the bytes of some columns of a row group begin and end."""
        described = self.metadata.row_group(group)
        numbers = [*range(described.num_columns)]
        if names is not None and len(numbers) == len(self.schema.names):
            # a list is one column of Parquet too; of anything deeper, all is read
            numbers = [at for at, one in enumerate(self.schema.names) if one in names]
        found = []
        for column in map(described.column, numbers):
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            found.append((start, start + column.total_compressed_size))
        return found


class Segment:
    """One sealed segment, opened for reading.

    Args:
        file: the whole segment; whoever opened it closes it.
        name: how to call it in errors.
        digest: the digest from its name.
        checked: numbers of row groups whose bytes were compared already; more are added.
        footer: where it was read before.

    Raises:
        DamagedTrace: it is truncated, or its footer changed.
    """

    def __init__(
        self,
        file: Reads,
        name: str,
        digest: str,
        checked: set[int] | None = None,
        footer: Footer | None = None,
    ):
        self._file, self._name = file, name
        self._checked = set() if checked is None else checked
        self.footer = Footer.read(file, name, digest) if footer is None else footer

    @property
    def groups(self) -> range:
        """The numbers of the row groups."""
        return self.footer.groups

    def read(
        self, groups: Iterable[int], names: Sequence[str] | None = None, *, sums: bool = True
    ) -> pa.Table:
        """Some row groups, with every checksum compared.

        Args:
            groups: their numbers.
            names: only these columns; None: all.
            sums: compare the row groups' CRC-32 too, which reads all their columns unless it was
                done before; without it page checksums alone are compared.

        Raises:
            DamagedTrace: a byte of them changed.
        """
        asked = list(groups)
        new = [one for one in asked if sums and one not in self._checked]
        ranges = [self.footer.whole(one)[:2] for one in new]
        for one in set(asked).difference(new):
            ranges += self.footer.chunks(one, names)
        window = self._fetch(ranges)
        self._compare(new, window)
        return self.parse(window, asked, names, pages=len(new) < len(asked))

    def whole(self, groups: Iterable[int]) -> Window:
        """All bytes of some row groups, compared with their CRC-32.

        Raises:
            DamagedTrace: one of them changed.
        """
        asked = list(groups)
        window = self._fetch([self.footer.whole(one)[:2] for one in asked])
        self._compare(asked, window)
        return window

    def parse(
        self,
        window: Window,
        groups: Iterable[int],
        names: Sequence[str] | None = None,
        *,
        pages: bool = False,
        views: bool = False,
    ) -> pa.Table:
        """Some row groups of which all that is asked was fetched.

        Args:
            window: what was fetched.
            groups: their numbers.
            names: only these columns; None: all.
            pages: compare the checksums of pages, where the window was not compared as a whole.
            views: bytes as binary views: values of megabytes that are gathered in one buffer are
                moved each time that it grows.

        Raises:
            DamagedTrace: a byte of them changed.
        """
        try:
            parquet = pq.ParquetFile(
                window.open(),
                metadata=self.footer.metadata,
                page_checksum_verification=pages,
                binary_type=pa.binary_view() if views else None,
                pre_buffer=False,
            )
            asked = list(groups)
            found: pa.Table = parquet.read_row_groups(
                asked, columns=None if names is None else list(names), use_threads=False
            )
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            raise DamagedTrace(f"{self._name} is damaged: {_first_line(error)}") from error
        # the header of a page has no checksum, and a page of no rows is none to Arrow
        rows = sum(self.footer.metadata.row_group(one).num_rows for one in asked)
        if found.num_rows != rows:
            raise DamagedTrace(f"{self._name} is damaged: {found.num_rows} rows of {rows}")
        return found

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> Window:
        try:
            return Window.read(self._file, self.footer.size, ranges)
        except EOFError:
            raise DamagedTrace(
                f"{self._name} is truncated: it was longer when it was opened. "
                "Restore it from a copy"
            ) from None

    def _compare(self, groups: Iterable[int], window: Window) -> None:
        for group in groups:
            start, end, crc = self.footer.whole(group)
            if zlib.crc32(window.at(start, end - start)) != crc:
                raise DamagedTrace(
                    f"{self._name} is damaged: bytes {start} to {end} changed. "
                    "Restore it from a copy"
                )
            self._checked.add(group)


def read_segment(file: Reads, name: str, digest: str) -> pa.Table:
    """Read a whole sealed segment, with every checksum compared.

    Raises:
        DamagedTrace: it is truncated, or any byte of it changed.
    """
    segment = Segment(file, name, digest)
    return segment.read(segment.groups)


def footer_digest(footer: bytes) -> str:
    """16 hex digits over a Parquet footer: its metadata, their length and the closing magic."""
    return hashlib.blake2b(footer, digest_size=8).hexdigest()


def check_footer(data: bytes, name: str, digest: str) -> None:
    """Raise DamagedTrace if a footer is not the one that the segment's name tells of."""
    if footer_digest(data) != digest:
        raise DamagedTrace(f"{name} is damaged: its footer changed. Restore it from a copy")


def read_footer(file: Reads, name: str, size: int) -> bytes:
    """The bytes of a Parquet footer; most come with the first request.

    Args:
        file: the whole segment.
        name: how to call it in errors.
        size: its size in bytes.

    Raises:
        DamagedTrace: the file is truncated.
    """
    if size < _TAIL + len(_MAGIC):
        raise DamagedTrace(f"{name} is truncated: {size} bytes are left. Restore it from a copy")
    guess = min(size, _FOOTER_GUESS)
    end = file.read_at(guess, size - guess)
    length = _TAIL + int.from_bytes(end[-_TAIL:][:4], "little")
    if len(end) < guess or end[-len(_MAGIC) :] != _MAGIC or length + len(_MAGIC) > size:
        raise DamagedTrace(f"{name} is truncated: it ends within its data. Restore it from a copy")
    if length <= guess:
        return end[guess - length :]
    return file.read_at(length - guess, size - length) + end


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
