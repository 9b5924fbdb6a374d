"""What a stranger's write-ahead streams may be."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.traces.crafting import read_messages, sealed_run, write_stream
from tests.traces.trees import stream

MIB = 1 << 20


def streamed(change: Callable[[list[bytes]], list[bytes]], table: str = "metrics") -> Any:
    """A case whose one stream has other messages, and right checksums."""

    def case(run: Path) -> None:
        path = stream(run, table)
        write_stream(path, change(read_messages(path)))

    return case


def lines(data: bytes) -> Callable[[Path], None]:
    """A case whose checksums are these bytes."""
    return lambda run: stream(run, "metrics").with_suffix(".sums").write_bytes(data) and None


def batch(parts: list[bytes]) -> pa.RecordBatch:
    return pa.ipc.open_stream(b"".join(parts)).read_next_batch()


def serialized(found: pa.RecordBatch, **options: Any) -> list[bytes]:
    """A schema and a batch."""
    made = pa.ipc.IpcWriteOptions(**options)
    return [found.schema.serialize().to_pybytes(), _message(found, made)]


def _message(found: pa.RecordBatch, options: pa.ipc.IpcWriteOptions) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema, options=options) as writer:
        writer.write_batch(found)
    return sink.getvalue().to_pybytes()[len(found.schema.serialize()) : -8]


def with_column(name: str, values: Any) -> Callable[[list[bytes]], list[bytes]]:
    """One column is another."""

    def change(parts: list[bytes]) -> list[bytes]:
        found = batch(parts)
        made = values(found.num_rows) if callable(values) else values
        at = found.schema.names.index(name)
        return serialized(found.set_column(at, name, made))

    return change


def claims_rows(parts: list[bytes]) -> list[bytes]:
    """The metadata say 10^12 rows where they said how many there are."""
    count = batch(parts).num_rows
    one = bytearray(parts[1])
    size = 8 + struct.unpack_from("<i", one, 4)[0]
    old, new = struct.pack("<q", count), struct.pack("<q", 10**12)
    one[:size] = one[:size].replace(old, new)
    return [parts[0], bytes(one), *parts[2:]]


def claims_buffers(value: int) -> Callable[[list[bytes]], list[bytes]]:
    """The last buffer is said to be elsewhere, or longer than the body."""

    def change(parts: list[bytes]) -> list[bytes]:
        one = bytearray(parts[1])
        size = 8 + struct.unpack_from("<i", one, 4)[0]
        body = len(one) - size
        for at in range(8, size - 16, 8):
            offset, length = struct.unpack_from("<qq", one, at)
            if length > 0 and 64 <= offset <= offset + length <= body and not offset % 8:
                struct.pack_into("<qq", one, at, offset, value)
                break
        return [parts[0], bytes(one), *parts[2:]]

    return change


def claims_body(parts: list[bytes]) -> list[bytes]:
    """A body of 2^40 bytes."""
    one = bytearray(parts[1])
    size = 8 + struct.unpack_from("<i", one, 4)[0]
    old = struct.pack("<q", len(one) - size)
    one[:size] = one[:size].replace(old, struct.pack("<q", 1 << 40))
    return [parts[0], bytes(one), *parts[2:]]


def bomb(parts: list[bytes]) -> list[bytes]:
    """A compressed batch of a gigabyte of zeros."""
    found = batch(parts)
    text = pa.array(["\0" * (900 * MIB)] + [None] * (found.num_rows - 1), pa.string())
    at = found.schema.names.index("status")
    return serialized(found.set_column(at, "status", text), compression="zstd")


def dictionaries(parts: list[bytes]) -> list[bytes]:
    """Words by a dictionary, which comes in a message of its own."""
    found = batch(parts)
    table = pa.Table.from_batches([found])
    at = found.schema.names.index("layer")
    table = table.set_column(at, "layer", table.column("layer").dictionary_encode())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [table.schema.serialize().to_pybytes(), sink.getvalue().to_pybytes()[:-8]]


def sparse(run: Path) -> None:
    os.truncate(stream(run, "metrics"), 1 << 40)


def sparse_sums(run: Path) -> None:
    os.truncate(stream(run, "metrics").with_suffix(".sums"), 1 << 40)


def offsets(parts: list[bytes]) -> list[bytes]:
    """A text whose offsets point before and behind its bytes."""
    found = batch(parts)
    column = found.column("layer")
    right = column.buffers()[1].to_pybytes()[: 4 * (len(column) + 1)]
    wrong = struct.pack(f"<{len(column) + 1}i", *[0, *[2**31 - 8] * len(column)])
    assert right in parts[1]
    return [parts[0], parts[1].replace(right, wrong), *parts[2:]]


def wide_grid(run: Path) -> None:
    """Few rows, at many steps, and many layers in run.json."""
    path = stream(run, "metrics")
    parts = read_messages(path)
    found = pa.Table.from_batches([batch(parts)]).slice(0, 1)
    found = pa.concat_tables([found] * 2000).combine_chunks()
    found = found.set_column(2, "step", pa.array(range(2000), pa.int64()))
    write_stream(path, serialized(found.to_batches()[0]))
    content = json.loads((run / "run.json").read_bytes())
    (layer, *_) = content["layers"]
    content["layers"] += [{**layer, "name": f"x{at}"} for at in range(40_000)]
    (run / "run.json").write_bytes(sealed_run(content))


CASES: dict[str, Callable[[Path], Any]] = {
    "a stream of a terabyte": sparse,
    "a grid of 80 million cells": wide_grid,
    "sums of a terabyte": sparse_sums,
    "a batch of 10^12 rows": streamed(claims_rows),
    "a buffer of 10^12 bytes": streamed(claims_buffers(10**12)),
    "a buffer of fewer bytes than none": streamed(claims_buffers(-1)),
    "a body of a terabyte": streamed(claims_body),
    "a compressed stream": streamed(bomb),
    "dictionaries in a stream": streamed(dictionaries),
    "offsets out of bounds": streamed(offsets),
    "offsets of lists out of bounds": streamed(lambda parts: parts[:1] + parts[:1]),
    "two schemas": streamed(lambda parts: [parts[0], parts[0], *parts[1:]]),
    "no schema": streamed(lambda parts: parts[1:]),
    "a message that is none": streamed(lambda parts: [*parts, b"\x00" * 64]),
    "a message of nothing but its length": streamed(
        lambda parts: [*parts, b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
    ),
    "two messages in one": streamed(lambda parts: [b"".join(parts)]),
    "an end marker": streamed(lambda parts: [*parts, b"\xff\xff\xff\xff\0\0\0\0"]),
    "another schema": streamed(lambda _: serialized(pa.record_batch({"x": pa.array([1, 2])}))),
    "steps are texts": streamed(with_column("step", lambda n: pa.array(["a"] * n))),
    "steps are structs": streamed(with_column("step", lambda n: pa.array([{"a": 1}] * n))),
    "steps are null": streamed(with_column("step", lambda n: pa.nulls(n, pa.int64()))),
    "layers are views": streamed(
        with_column("layer", lambda n: pa.array(["abcdefghijklmnop"] * n, pa.string_view()))
    ),
    "layers are no text": streamed(
        with_column("layer", lambda n: pa.array([b"\xff\xfe"] * n).view(pa.string()))
    ),
    "layers are an extension": streamed(
        with_column(
            "layer",
            lambda n: pa.ExtensionArray.from_storage(
                pa.uuid(), pa.array([bytes(16)] * n, pa.binary(16))
            ),
        )
    ),
    "lines that go back": lines(b"0000000000000100 00000000\n0000000000000050 00000000\n"),
    "lines of signs": lines(b"-000000000000100 00000000\n"),
    "lines of underlines": lines(b"00000000000_1_00 00000000\n"),
    "lines of nines": lines(b"9999999999999999 ffffffff\n" * 3),
    "lines of nothing": lines(bytes(26 * 4)),
    "many lines": lines(b"".join(b"%016d 00000000\n" % (at + 1) for at in range(400_000))),
}
HARMLESS: set[str] = set()
