"""Write-ahead streams: what a killed process leaves of its small tables.

`.wal-….arrows` is an Arrow IPC stream without its end marker: the schema, then record batches,
readable by any Arrow. `.wal-….sums` beside it holds a line per message: where it ends, and the
CRC-32 of its bytes. A batch counts once its line is there, so the tail of a write that was cut off
is never parsed, and a byte that changed later is found before Arrow sees it.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.format.messages import BATCH, SCHEMA, messages, read_schema
from optgeom.traces.limits import MAX_MESSAGES, MAX_STREAM_BYTES, refuse
from optgeom.traces.names import PartName

LINE = 26
_SUM = re.compile(rb"([0-9]{16}) ([0-9a-f]{8})\n")


class WriteAhead:
    """Appends record batches to one stream.

    Args:
        folder: the table's folder, which exists.
        name: attempt, rank and sequence.
        schema: the stream's schema, strings stored as strings.

    Raises:
        FileExistsError: there is such a stream, whoever's it is: it is left as it is.
        OSError: it cannot be written; nothing is left.
    """

    def __init__(self, folder: Path, name: PartName, schema: pa.Schema):
        self._paths = (folder / name.file, folder / name.sums)
        # sums first: a reader may meet sums without a stream, never a stream without sums
        self._sums = _create(self._paths[1])
        try:
            self._stream = _create(self._paths[0])
        except BaseException:
            os.close(self._sums)
            self._paths[1].unlink(missing_ok=True)
            raise
        self._end = self._lines = 0
        try:
            self._append(schema.serialize())
        except BaseException:
            self.remove()
            raise

    @property
    def is_taken(self) -> bool:
        """Whether somebody has removed the files: what was appended survives no death then."""
        return not all(path.exists() for path in self._paths)

    def append(self, batch: pa.RecordBatch) -> int:
        """Append a batch; it survives the death of this process from here on. Returns bytes.

        After an error, such as that of a full disk, it may be tried again.
        """
        return self._append(batch.serialize())

    def close(self) -> None:
        """Close the files and leave them, for a reader to recover."""
        os.close(self._stream)
        os.close(self._sums)

    def remove(self) -> None:
        """Close and remove the files, once a sealed segment holds their rows."""
        self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _append(self, message: pa.Buffer) -> int:
        data = memoryview(message)
        end = self._end + data.nbytes
        line = f"{end:016d} {zlib.crc32(data):08x}\n".encode()
        # at offsets, not at the end: what an earlier try left of a message is written over
        try:
            _write(self._stream, data, self._end)
            _write(self._sums, memoryview(line), self._lines)
        except OSError:
            # other files of the trace need the room
            os.ftruncate(self._stream, self._end)
            raise
        self._end, self._lines = end, self._lines + LINE
        return data.nbytes + LINE


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """How far a stream has been read.

    Attributes:
        schema: the bytes of its schema message.
        offset: where the next batch starts.
        lines: how many bytes of the checksums beside it belong to what was read.
        crc: their CRC-32: another run's stream in the same place has others.
    """

    schema: bytes = b""
    offset: int = 0
    lines: int = 0
    crc: int = 0

    def continues(self, sums: bytes) -> bool:
        """Whether these are the checksums of the stream that was read so far."""
        return len(sums) >= self.lines and zlib.crc32(sums[: self.lines]) == self.crc


def read_stream(
    data: bytes, sums: bytes, name: str, since: StreamPosition | None = None
) -> tuple[list[pa.RecordBatch], StreamPosition]:
    """Read the whole batches of a stream that may still be growing, or be cut off anywhere.

    Args:
        data: the stream's bytes from `since.offset` on.
        sums: all bytes of the checksums beside it.
        name: how to call the stream in errors.
        since: where an earlier call stopped; only later batches are returned.

    Returns:
        The batches, and where to go on.

    Raises:
        DamagedTrace: a byte of a whole message changed.
    """
    since = since or StreamPosition()
    schema, start = since.schema, since.offset
    refuse(name, "bytes", start + len(data), MAX_STREAM_BYTES)
    whole, end = memoryview(data), start
    lines = parse_sums(sums, name)
    for stop, crc in lines:
        if stop <= end:
            continue
        if stop > start + len(data):
            _refuse_whole(whole[end - start :], crc, name)
            break
        message = whole[end - start : stop - start]
        if zlib.crc32(message) != crc:
            raise DamagedTrace(
                f"{name} is damaged: bytes {end} to {stop} changed. Restore it from a copy"
            )
        check_message(message, name, first=not schema)
        schema = schema or bytes(message)
        end = stop
    if not schema:
        return [], StreamPosition()
    body = whole[: end - start]
    batches = parse_batches(body if start == 0 else [schema, body], name)
    read = LINE * sum(stop <= end for stop, _ in lines)
    return batches, StreamPosition(schema, end, read, zlib.crc32(sums[:read]))


def uncounted(data: bytes, end: int) -> int:
    """How many whole batches of a stream lie behind the last message that has its checksums.

    A power cut may have taken their lines. One at the very end, which death may leave, is not told.
    While a stream is written, its checksums must be read after it: they may be behind by one.

    Args:
        data: the whole stream.
        end: of the last message that counts.
    """
    count = stop = 0
    rest = memoryview(data)[end:]
    with suppress(DamagedTrace):
        for one in messages(rest, ""):
            count, stop = count + (one.kind == BATCH), one.end
    # one alone is what a writer leaves that dies between a batch and its line: nobody was told
    # that it is kept
    return 0 if count == 1 and stop == len(rest) else count


def refuse_uncounted(data: bytes, end: int, name: str) -> None:
    """Raise DamagedTrace where uncounted batches lie behind what counts.

    Args:
        data: the whole stream.
        end: of the last message that counts.
        name: how to call the stream in errors.
    """
    count = uncounted(data, end)
    if count:
        raise DamagedTrace(
            f"the checksums beside {name} are damaged: those of batches behind the last "
            f"line are missing ({count:,} of them whole)"
        )


def _refuse_whole(rest: memoryview[Any], crc: int, name: str) -> None:
    """Raise DamagedTrace if a message that seems cut off is there as a whole: its line changed."""
    try:
        end = next((one.end for one in messages(rest, name)), 0)
    except DamagedTrace:
        return
    if end and zlib.crc32(rest[:end]) == crc:
        raise DamagedTrace(
            f"the checksums beside {name} are damaged: the last line says another end than its "
            "message has. Restore them from a copy"
        )


def check_message(message: memoryview[Any], name: str, *, first: bool) -> None:
    """Raise DamagedTrace if what one line of checksums covers is no message of a stream.

    Args:
        message: its bytes.
        name: how to call the stream in errors.
        first: it is the first one, which is the schema; the others are record batches.
    """
    found = list(messages(message, name))
    expected = SCHEMA if first else BATCH
    if len(found) != 1 or found[0].kind != expected or found[0].end != len(message):
        raise DamagedTrace(f"{name} is damaged: it holds other messages than a schema and batches")
    if first:
        read_schema(message, name)
    # each row has its step, in eight bytes
    most = len(message) // 8
    refuse(name, f"rows in a message of {len(message):,} bytes", found[0].rows, most)
    refuse(name, "bytes in a message once it is uncompressed", found[0].decoded, len(message))


def parse_batches(data: Any, name: str) -> list[pa.RecordBatch]:
    """The batches of messages that were checked, the schema first.

    Args:
        data: their bytes, or the schema's and those of the others.
        name: how to call the stream in errors.

    Raises:
        DamagedTrace: Arrow cannot read them, or they are none.
    """
    joined = b"".join(data) if isinstance(data, list) else data
    try:
        batches = list(pa.ipc.open_stream(pa.py_buffer(joined)))
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {str(error).partition(chr(10))[0]}") from error
    return batches


def parse_sums(sums: bytes, name: str) -> list[tuple[int, int]]:
    """The end and the CRC-32 of each message, ascending; a line that is cut off does not count.

    Args:
        sums: the bytes of a .sums file.
        name: how to call the stream beside it in errors.

    Raises:
        DamagedTrace: a line is none, or does not ascend.
    """
    refuse(f"the .sums file beside {name}", "lines", len(sums) // LINE, MAX_MESSAGES)
    found, before = [], 0
    for at in range(0, len(sums) - LINE + 1, LINE):
        line = parse_line(sums[at : at + LINE])
        if line is None or line[0] <= before:
            raise DamagedTrace(
                f"the checksums beside {name} are damaged: line {at // LINE + 1} changed. "
                "Restore them from a copy"
            )
        found.append(line)
        before = line[0]
    return found


def parse_line(line: bytes) -> tuple[int, int] | None:
    r"""The end and the CRC-32 that one line of checksums tells; None where it is none.

    >>> parse_line(b"0000000000000184 0000000f\n")
    (184, 15)
    """
    match = _SUM.fullmatch(line)
    return None if match is None else (int(match[1]), int(match[2], 16))


def whole_lines(sums: bytes) -> tuple[bytes, int]:
    r"""The complete lines of a .sums file, and where the last message that they count ends.

    >>> whole_lines(b"0000000000000120 0a1b2c3d\n00000000000")
    (b'0000000000000120 0a1b2c3d\n', 120)
    """
    whole = sums[: len(sums) // LINE * LINE]
    last = parse_line(whole[-LINE:])
    return whole, 0 if last is None else last[0]


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data.nbytes:
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
