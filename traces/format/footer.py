"""The footer of a segment: compared with the digest in the file's name, and then believed in part.

What it claims of sizes is compared with `optgeom.traces.limits` before memory is taken for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces import limits
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.window import Reads, Window
from optgeom.traces.format.messages import BATCH, SCHEMA, check_schema, messages
from optgeom.traces.format.pages import walk_pages
from optgeom.traces.limits import refuse

SUMS = b"optgeom.crc32"
INDEX = b"optgeom.index"
_TAIL = 8
_MAGIC = b"PAR1"
_FOOTER_GUESS = 1 << 16
_PARSED = 12
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_LEVELS = 4
_LITTLE = 1 << 12
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


class _Unread:
    """A file that is not there to be read.

    Attributes:
        asked: whether Arrow began to read. It gets nothing; an exception from here would do too,
            but Arrow keeps it for ever, with all that its traceback holds.
    """

    closed = False

    def __init__(self, size: int):
        self._size = self._at = size
        self.asked = False

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, nbytes: int) -> bytes:
        self.asked = True
        return b""

    def close(self) -> None:
        """Nothing to close."""


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
        index = _index_bytes(data) if len(data) > limits.MAX_FOOTER_BYTES else 0
        refuse(name, "bytes of footer beside its index", len(data) - index, limits.MAX_FOOTER_BYTES)
        try:
            parquet = pq.ParquetFile(
                pa.BufferReader(data),
                thrift_string_size_limit=limits.MAX_INDEX_BYTES,
                thrift_container_size_limit=limits.MAX_GROUPS,
            )
            self.schema: pa.Schema = parquet.schema_arrow
            self.metadata: pq.FileMetaData = parquet.metadata
            self._notes: dict[bytes, bytes] = self.metadata.metadata or {}
            sums = json.loads(self._notes.get(SUMS, b"[]"))
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise DamagedTrace(f"{name} is damaged: {first_line(error)}") from error
        check_schema(self.schema, name)
        rows = [self.metadata.row_group(at).num_rows for at in range(self.metadata.num_row_groups)]
        if any(one < 0 for one in rows) or sum(rows) != self.metadata.num_rows:
            raise DamagedTrace(f"{name} is damaged: its row groups are not all of its rows")
        refuse(name, f"rows in {size:,} bytes", sum(rows), limits.rows_of(size))
        self._sums = _checked_sums(sums, len(rows), size - len(data), name)
        self._vetted: set[int] = set()
        self._sizes: dict[tuple[int, frozenset[str] | None], int] = {}
        self.ends: np.ndarray[Any, np.dtype[np.int64]] = np.cumsum(rows, dtype=np.int64)
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
            self._check_index(memoryview(data))
            schema = pa.ipc.open_stream(data).schema
            check_schema(schema, f"the index of {self._name}")
            there = schema.names
            wanted = there if names is None else list(names)
            places = [there.index(one) for one in wanted]
            # a pool of threads costs a hundred times what these few bytes do
            options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=places)
            table = pa.ipc.open_stream(data, options=options).read_all().select(wanted)
            table.validate(full=True)
        except DamagedTrace:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedTrace(f"{self._name} is damaged: {first_line(error)}") from error
        if table.num_rows != self.metadata.num_rows:
            raise DamagedTrace(f"{self._name} is damaged: its index is of {table.num_rows} rows")
        return table

    def _check_index(self, data: memoryview[Any]) -> None:
        name, rows, decoded = f"the index of {self._name}", 0, 0
        for at, one in enumerate(messages(data, name)):
            if (at == 0) != (one.kind == SCHEMA):
                raise DamagedTrace(f"{name} is damaged: its schema is not where it begins")
            decoded += one.decoded
            rows += one.rows if one.kind == BATCH else 0
            refuse(name, "rows", rows, self.metadata.num_rows)
            refuse(name, "bytes once it is uncompressed", decoded, limits.room(self.size))

    def whole(self, group: int) -> tuple[int, int, int]:
        """Where the bytes of a row group begin and end, and their CRC-32.

        Raises:
            DamagedTrace: the footer does not say: something else wrote the file.
        """
        if len(self._sums) != len(self.groups):
            raise DamagedTrace(f"{self._name} is no segment of a trace: its checksums are missing")
        return (self._sums[group - 1][0] if group else 0, *self._sums[group])

    def chunks(self, group: int, names: Collection[str] | None) -> list[tuple[int, int]]:
        """Where the bytes of some columns of a row group begin and end.

        Raises:
            DamagedTrace: outside of the row group.
        """
        return [(start, end) for start, end, *_ in self._chunks(group, names)]

    def _chunks(
        self, group: int, names: Collection[str] | None
    ) -> Iterator[tuple[int, int, pq.ColumnChunkMetaData, int]]:
        """Begin, end, what is said of it, and number of the chunks of some columns."""
        self._vet(group)
        described = self.metadata.row_group(group)
        numbers = [*range(described.num_columns)]
        if names is not None and len(numbers) == len(self.schema.names):
            # a list is one column of Parquet too; of anything deeper, all is read
            numbers = [at for at, one in enumerate(self.schema.names) if one in names]
        first, last, _ = self.whole(group)
        for number in numbers:
            column = described.column(number)
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            end = start + column.total_compressed_size
            if not max(first, len(_MAGIC)) <= start <= end <= last:
                raise DamagedTrace(
                    f"{self._name} is damaged: a column of row group {group} is said to lie in "
                    f"bytes {start:,} to {end:,}, its row group in {first:,} to {last:,}"
                )
            yield start, end, column, number

    def _vet(self, group: int) -> None:
        """Have Arrow look at what is said of the columns of a row group, where it may refuse it.

        Asked by Python for one of them, it ends the process if the sizes that are noted there are
        not of the column's type. Asked for the rows, it looks at all, refuses, or begins to read;
        which it is not let.
        """
        if group in self._vetted:
            return
        unread = _Unread(self.size)
        parquet = pq.ParquetFile(
            pa.PythonFile(unread, "r"), metadata=self.metadata, buffer_size=_LITTLE
        )
        try:
            parquet.read_row_groups([group], use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            if not unread.asked:
                raise DamagedTrace(f"{self._name} is damaged: {first_line(error)}") from error
        self._vetted.add(group)

    def decoded(self, window: Window, group: int, names: Collection[str] | None) -> int:
        """The bytes that some columns of a row group take in memory, at most.

        Args:
            window: holds their bytes.
            group: its number.
            names: only these columns; None: all.

        Raises:
            DamagedTrace: their pages claim what no trace has, or another number of values.
        """
        # the footer of raw matrices is kept, and asked again for each of them
        key = (group, None if names is None else frozenset(names))
        if key not in self._sizes:
            self._sizes[key] = self._decoded(window, group, names)
        return self._sizes[key]

    def _decoded(self, window: Window, group: int, names: Collection[str] | None) -> int:
        total = 0
        rows = self.metadata.row_group(group).num_rows
        flat = self.metadata.num_columns == len(self.schema.names)
        for start, end, column, number in self._chunks(group, names):
            values, kind = column.num_values, self.metadata.schema.column(number)
            if kind.max_repetition_level == 0 and values != rows:
                raise DamagedTrace(f"{self._name} is damaged: {values:,} values in {rows:,} rows")
            refuse(self._name, "values in a row group", values, limits.room(self.size))
            pages = walk_pages(window.at(start, end - start), values, self._name)
            width = _WIDTHS.get(kind.physical_type, 0)
            if flat and pa.types.is_dictionary(self.schema.field(number).type):
                total += _LEVELS * values + pages.dictionary
            elif width:
                total += width * values
            else:
                # any value may be as long as the whole dictionary, or as its type says
                fixed = max(kind.length, 0)
                total += pages.plain + pages.indirect * max(pages.dictionary, fixed)
                total += values * max(fixed, _LEVELS)
            total += _LEVELS * values if kind.max_repetition_level else 0
        return total


def _checked_sums(sums: Any, groups: int, end: int, name: str) -> list[tuple[int, int]]:
    """The ends and checksums of row groups, that lie one after another and before the footer.

    None where there are none: what is read then says that they are missing.
    """
    if isinstance(sums, list) and len(sums) == groups:
        before = 0
        for one in sums:
            pair = isinstance(one, list) and len(one) == 2 and all(type(it) is int for it in one)
            if not pair or not before <= one[0] <= end or not 0 <= one[1] < 1 << 32:
                break
            refuse(name, "bytes in a row group", one[0] - before, limits.MAX_GROUP_BYTES)
            before = one[0]
        else:
            return [(stop, crc) for stop, crc in sums]
    elif sums == [] or not isinstance(sums, list):
        return []
    raise DamagedTrace(f"{name} is damaged: its checksums are not of its row groups")


def _index_bytes(data: bytes) -> int:
    """How many bytes of a footer are its index, without parsing it; 0 where none is found."""
    at = data.rfind(INDEX) + len(INDEX)
    if at < len(INDEX) or data[at : at + 1] != b"\x18":
        return 0
    length = shift = 0
    start = at + 1
    for byte in data[start : start + 5]:
        length |= (byte & 127) << shift
        shift, start = shift + 7, start + 1
        if byte < 128:
            break
    text = data[start : start + length]
    return length if len(text) == length and not text.translate(None, _BASE64) else 0


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
    refuse(name, "bytes of footer", length, limits.MAX_FOOTER_BYTES + limits.MAX_INDEX_BYTES)
    if length <= guess:
        return end[guess - length :]
    return file.read_at(length - guess, size - length) + end


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return str(error).partition("\n")[0] or type(error).__name__
