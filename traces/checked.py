"""Reading sealed segments: nothing is parsed before it was compared with its checksum.

Parquet's page checksums cover the data in the pages, not their headers nor the footer, and a
flipped bit there can end the process or read back as wrong numbers. So a digest over the footer
stands in the file's name, and the footer holds a CRC-32 of the bytes of each row group.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.keys import Codes

SUMS = b"optgeom.crc32"
INDEX = b"optgeom.index"
_TAIL = 8
_MAGIC = b"PAR1"
_PIECE = 1 << 20


class Segment:
    """One sealed segment, opened for reading.

    Args:
        file: random access to the whole segment; whoever opened it closes it.
        name: how to call it in errors.
        digest: the digest from its name.
        checked: numbers of row groups whose bytes were compared already; more are added.

    Raises:
        DamagedTrace: it is truncated, or its footer changed.
    """

    def __init__(
        self, file: pa.NativeFile, name: str, digest: str, checked: set[int] | None = None
    ):
        self._file, self._name = file, name
        self._checked = set() if checked is None else checked
        if footer_digest(read_footer(file, name)) != digest:
            raise DamagedTrace(f"{name} is damaged: its footer changed. Restore it from a copy")
        try:
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            self.schema: pa.Schema = self._parquet.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedTrace(f"{name} is damaged: {_first_line(error)}") from error
        self._metadata = self._parquet.metadata
        self._notes: dict[bytes, bytes] = self._metadata.metadata or {}

    @property
    def groups(self) -> range:
        """The numbers of the row groups."""
        return range(self._metadata.num_row_groups)

    @property
    def ends(self) -> Codes:
        """The row after each row group, (g,) int64."""
        return np.cumsum(
            [self._metadata.row_group(i).num_rows for i in self.groups], dtype=np.int64
        )

    @property
    def indexed(self) -> bool:
        """Whether the footer holds a copy of all columns but the large ones."""
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
        if table.num_rows != self._metadata.num_rows:
            raise DamagedTrace(f"{self._name} is damaged: its index is of {table.num_rows} rows")
        return table

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
        if sums:
            self._check(asked)
        try:
            return self._parquet.read_row_groups(
                asked, columns=None if names is None else list(names), use_threads=False
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedTrace(f"{self._name} is damaged: {_first_line(error)}") from error

    def _check(self, groups: Iterable[int]) -> None:
        missing = [one for one in groups if one not in self._checked]
        if not missing:
            return
        stored = json.loads(self._notes.get(SUMS, b"[]"))
        if len(stored) != len(self.groups):
            raise DamagedTrace(f"{self._name} is no segment of a trace: its checksums are missing")
        starts = [0, *(end for end, _ in stored)]
        for group in missing:
            end, crc = stored[group]
            if self._crc(starts[group], end) != crc:
                raise DamagedTrace(
                    f"{self._name} is damaged: bytes {starts[group]} to {end} changed. "
                    "Restore it from a copy"
                )
            self._checked.add(group)

    def _crc(self, start: int, end: int) -> int:
        crc = 0
        self._file.seek(start)
        for at in range(start, end, _PIECE):
            crc = zlib.crc32(self._file.read_buffer(min(_PIECE, end - at)), crc)
        return crc


def read_segment(file: pa.NativeFile, name: str, digest: str) -> pa.Table:
    """Read a whole sealed segment, with every checksum compared.

    Raises:
        DamagedTrace: it is truncated, or any byte of it changed.
    """
    segment = Segment(file, name, digest)
    return segment.read(segment.groups)


def footer_digest(footer: bytes) -> str:
    """16 hex digits over a Parquet footer: its metadata, their length and the closing magic."""
    return hashlib.blake2b(footer, digest_size=8).hexdigest()


def read_footer(file: pa.NativeFile, name: str) -> bytes:
    """The bytes of a Parquet footer.

    Raises:
        DamagedTrace: the file is truncated.
    """
    size: int = file.size()
    if size < _TAIL + len(_MAGIC):
        raise DamagedTrace(f"{name} is truncated: {size} bytes are left. Restore it from a copy")
    file.seek(size - _TAIL)
    tail: bytes = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + _TAIL + len(_MAGIC) > size:
        raise DamagedTrace(f"{name} is truncated: it ends within its data. Restore it from a copy")
    file.seek(size - _TAIL - length)
    footer: bytes = file.read(length)
    file.seek(0)
    return footer + tail


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
