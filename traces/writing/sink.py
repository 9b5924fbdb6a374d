"""The writer's files: what its one background thread does with the records."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.batches import make_batch, with_keys
from optgeom.traces.columns import one_chunk
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.format.wal import WriteAhead
from optgeom.traces.names import PartName
from optgeom.traces.schema import FLOATS, STORED_DTYPES, plain
from optgeom.traces.writing.taken import sealed_rows

_LOG = logging.getLogger(__name__)
SEAL_ROWS = 1 << 16
SEAL_BYTES = 32 << 20
PENDING_ROWS = 1 << 12
PENDING_BYTES = 8 << 20
GROUP_BYTES = 4 << 20
BLOCK_BYTES = 16 << 20


class TableLog:
    """One small table: rows to a write-ahead stream, streams to sealed segments.

    Args:
        folder: the table's folder; made with the first row.
        schema: the table's schema.
        attempt: which attempt, and `rank` whose rows these are.
        rank: see `attempt`.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, attempt: int, rank: int):
        self._folder = folder
        self._schema = schema
        self._plain = plain(schema)
        self._next = PartName(attempt, rank, 0)
        self._rows: list[Mapping[str, Any]] = []
        self._lists = [field.name for field in schema if field.type == FLOATS]
        self._pending = 0
        self._stream: WriteAhead | None = None
        self._batches: list[pa.RecordBatch] = []
        self._sealed: list[int] = []  # rows of each sequence so far
        self.lost: Counter[str] = Counter()
        self.bytes_written = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; it is on the disk after the next flush, or before where many come at once."""
        self._rows.append(row)
        self._pending += sum(row[one].nbytes for one in self._lists if row.get(one) is not None)
        # between two flushes a fast run hands over more than a segment shall hold
        if self._pending >= PENDING_BYTES or len(self._rows) >= PENDING_ROWS:
            self.flush()

    def flush(self) -> None:
        """Append the rows taken since the last flush to the stream; seal it if it is large."""
        self._bring()
        rows = sum(one.num_rows for one in self._batches)
        if rows >= SEAL_ROWS or sum(one.nbytes for one in self._batches) >= SEAL_BYTES:
            self.seal()

    def _bring(self) -> None:
        if self._rows:
            self._append()
        if self._stream is not None and self._stream.is_taken:
            self._write_anew(self._stream)

    def _append(self) -> None:
        batch = with_keys(make_batch(self._rows, self._plain, self.lost), self.lost)
        if not batch.num_rows:
            self._rows, self._pending = [], 0
            return
        if self._stream is None:
            self._stream = self._begin()
        self.bytes_written += self._stream.append(batch)
        self._rows, self._pending = [], 0
        self._batches.append(batch)

    def _begin(self) -> WriteAhead:
        self._folder.mkdir(exist_ok=True)
        stream = self._create()
        try:
            for batch in self._batches:
                self.bytes_written += stream.append(batch)
        except BaseException:
            stream.remove()
            raise
        return stream

    def _create(self) -> WriteAhead:
        while True:
            try:
                return WriteAhead(self._folder, self._next, self._plain)
            except FileExistsError:
                # rows of an attempt that run.json has lost: they stay
                self._advance(0)

    def _write_anew(self, taken: WriteAhead) -> None:
        """Go on in a new stream with what nobody has sealed of one that was taken away."""
        self._stream = None
        taken.close()
        sealed = sealed_rows(self._folder, self._next, self._sealed)
        if sealed is not None:
            counts = [one.num_rows for one in self._batches]
            ends = [0, *accumulate(counts)]
            # what was sealed are the first batches; of rows in another number nothing is known
            self._batches = self._batches[ends.index(sealed) if sealed in ends else 0 :]
            self._advance(sealed)
        _LOG.warning(
            "%s: a stream that is being written was %s by another process: %d rows of it are "
            "written anew",
            self._folder,
            "removed" if sealed is None else "sealed",
            sum(one.num_rows for one in self._batches),
        )
        if self._batches:
            self._stream = self._begin()

    def _advance(self, rows: int) -> None:
        self._sealed.append(rows)
        self._next = PartName(self._next.attempt, self._next.rank, self._next.sequence + 1)

    def take_pending(self) -> int:
        """Forget the rows that are not on the disk; returns how many those were."""
        count = len(self._rows)
        if self._stream is None:
            # it was taken away, and could not be made anew
            count += sum(one.num_rows for one in self._batches)
            self._batches = []
        self._rows = []
        return count

    def seal(self) -> None:
        """Flush, and turn the stream into a segment."""
        self._bring()
        if not self._batches:
            return
        table = one_chunk(pa.Table.from_batches(self._batches).cast(self._schema))
        segment = SegmentWriter(self._folder, self._next, self._schema)
        try:
            segment.write_sorted(table)
            segment.seal()
        except BaseException:
            segment.abandon()
            raise
        self.bytes_written += segment.size
        if self._stream is not None:
            self._stream.remove()
        self._stream, self._batches = None, []
        self._advance(table.num_rows)

    def close(self) -> None:
        """Leave the stream as it is, for a reader to recover."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class RawLog:
    """Raw matrices: one segment per captured step, written row group by row group.

    Args:
        folder: the folder of `updates`; made with the first matrix.
        schema: its schema.
        attempt: which attempt, and `rank` whose rows these are.
        rank: see `attempt`.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, attempt: int, rank: int):
        self._folder = folder
        self._schema = schema
        self._next = PartName(attempt, rank, 0)
        self._steps: dict[int, tuple[SegmentWriter, list[Mapping[str, Any]]]] = {}
        self._unsealed: Counter[int] = Counter()
        self.bytes_written = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row block; `values` is a flat memoryview of its bytes."""
        step = row["step"]
        self._unsealed[step] += 1
        if step not in self._steps:
            self._folder.mkdir(exist_ok=True)
            segment = SegmentWriter(self._folder, self._next, self._schema, raw=True)
            self._next = PartName(self._next.attempt, self._next.rank, self._next.sequence + 1)
            self._steps[step] = (segment, [])
        segment, rows = self._steps[step]
        for block in _split(row):
            rows.append(block)
            if sum(one["values"].nbytes for one in rows) >= GROUP_BYTES:
                segment.write(_raw_table(rows, self._schema))
                rows.clear()

    def end_step(self, step: int) -> None:
        """Seal the segment of a step, if it has one."""
        if step not in self._steps:
            return
        segment, rows = self._steps.pop(step)
        try:
            if rows:
                segment.write(_raw_table(rows, self._schema))
            segment.seal()
            self.bytes_written += segment.size
        except BaseException:
            segment.abandon()
            raise
        del self._unsealed[step]

    def seal(self) -> None:
        """Seal every step that is still open."""
        for step in list(self._steps):
            self.end_step(step)

    def take_pending(self) -> int:
        """Forget the row blocks that are in no sealed segment; returns how many those were."""
        count = self._unsealed.total()
        self._unsealed.clear()
        return count

    def close(self) -> None:
        """Abandon what is open; its files go."""
        while self._steps:
            self._steps.popitem()[1][0].abandon()


def _split(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Row blocks of at most BLOCK_BYTES, or of one row."""
    width = row["cols"] * STORED_DTYPES[row["dtype"]]
    height = max(1, BLOCK_BYTES // max(1, width))
    if row["rows"] <= height:
        return [row]
    return [
        {
            **row,
            "row_start": row["row_start"] + at,
            "rows": min(height, row["rows"] - at),
            "values": row["values"][at * width : (at + height) * width],
        }
        for at in range(0, row["rows"], height)
    ]


def _raw_table(rows: list[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    keys = pa.schema([field for field in schema if field.name != "values"])
    columns = make_batch(rows, keys, Counter()).columns
    # a chunk for each block, in its own memory: gathering them would copy every matrix once more
    values = pa.chunked_array([_binary(row["values"]) for row in rows])
    return pa.table([*columns, values], names=[*keys.names, "values"]).select(schema.names)


def _binary(data: memoryview) -> pa.Array:
    ends = pa.py_buffer(np.array([0, data.nbytes], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(data)])
