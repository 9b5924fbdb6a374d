"""Write-ahead streams: what a killed process leaves of its small tables.

`.wal-….arrows` is an Arrow IPC stream without its end marker: the schema, then record batches,
readable by any Arrow. `.wal-….sums` beside it holds a line per message: where it ends, and the
CRC-32 of its bytes. A batch counts once its line is there, so the tail of a write that was cut off
is never parsed, and a byte that changed later is found before Arrow sees it.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.names import PartName

_LINE = 26


class WriteAhead:
    """Appends record batches to one stream.

    Args:
        folder: the table's folder, which exists.
        name: attempt, rank and sequence.
        schema: the stream's schema, strings stored as strings.
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
        self._end, self._lines = end, self._lines + _LINE
        return data.nbytes + _LINE


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
    end = start
    lines = _parse_sums(sums, name)
    for stop, crc in lines:
        if stop <= end:
            continue
        if stop > start + len(data):
            break
        message = data[end - start : stop - start]
        if zlib.crc32(message) != crc:
            raise DamagedTrace(
                f"{name} is damaged: bytes {end} to {stop} changed. Restore it from a copy"
            )
        schema = schema or message
        end = stop
    if not schema:
        return [], StreamPosition()
    body = data[: end - start] if start == 0 else schema + data[: end - start]
    try:
        batches = list(pa.ipc.open_stream(body))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTrace(f"{name} is damaged: {str(error).partition(chr(10))[0]}") from error
    read = _LINE * sum(stop <= end for stop, _ in lines)
    return batches, StreamPosition(schema, end, read, zlib.crc32(sums[:read]))


def _parse_sums(sums: bytes, name: str) -> list[tuple[int, int]]:
    lines = [sums[at : at + _LINE] for at in range(0, len(sums) - _LINE + 1, _LINE)]
    try:
        return [(int(line[:16]), int(line[17:25], 16)) for line in lines]
    except ValueError as error:
        raise DamagedTrace(f"the checksums beside {name} are damaged: restore them") from error


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data.nbytes:
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
