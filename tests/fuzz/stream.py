"""Fuzz the reader of write-ahead streams: `python -m tests.fuzz.stream CORPUS`.

The checksums are made for whatever the messages say of their own lengths.
"""

from __future__ import annotations

from tests.fuzz.fuzzing import KEPT, fuzz  # first: it has what follows instrumented

# isort: split

import zlib

from optgeom.traces.errors import TraceError
from optgeom.traces.format.messages import messages
from optgeom.traces.format.wal import read_stream


def read(data: bytes) -> None:
    """Read what may be a stream."""
    ends = []
    try:
        ends += [one.end for one in messages(memoryview(data), "x")]
    except TraceError:
        ends.append(len(data))
    before, lines = 0, b""
    for end in ends:
        lines += b"%016d %08x\n" % (end, zlib.crc32(data[before:end]))
        before = end
    for batch in read_stream(data, lines, "x")[0]:
        batch.to_pylist()


if __name__ == "__main__":
    fuzz(
        read,
        {
            table: next((KEPT / table).glob(".wal-*.arrows")).read_bytes()
            for table in ("metrics", "neurons", "spectra", "scalars")
        },
    )
