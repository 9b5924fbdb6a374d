"""How raw matrices are best laid down in a segment.

Writes the matrices of three blocks of GPT-2 small in several encodings and sizes of row groups,
then reads single ones as the reader does: compare the row group's bytes with their checksum, parse,
copy. Kinds take turns, and each is taken at its fastest; nothing waits for the disk, so that the
encodings are compared and not the machine's cache. Run as ``python benchmarks/raw_layouts.py``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from timing import machine, prepare

SHAPES = ((2304, 768), (768, 768), (3072, 768), (768, 3072)) * 3
ROUNDS = 7
MIB = 1 << 20

_SPLIT = {"values.list.element": "BYTE_STREAM_SPLIT"}

Matrix = np.ndarray[Any, Any]


class Kind(NamedTuple):
    """One way to write: the type of the column, its codec, and what a row and a group hold."""

    name: str
    type: str = "binary"
    codec: str = "none"
    split: bool = False
    group: int = 4 * MIB
    block: int = 16 * MIB


KINDS = (
    Kind("**binary, not compressed, groups of 4 MiB, blocks of 16**"),
    Kind("groups of 1 MiB", group=MIB),
    Kind("groups of 16 MiB", group=16 * MIB),
    Kind("groups of 64 MiB", group=64 * MIB),
    Kind("blocks of 1 MiB, groups of 4", block=MIB),
    Kind("blocks of 4 MiB, groups of 4", block=4 * MIB),
    Kind("binary, LZ4", codec="lz4"),
    Kind("binary, zstd", codec="zstd"),
    Kind("list of float32", type="list"),
    Kind("list of float32, split, zstd", type="list", codec="zstd", split=True),
    Kind("fixed-size list of float32", type="fixed"),
)


def rows_of(matrices: list[Matrix], kind: Kind) -> Iterator[pa.Array]:
    """The matrices as rows of one column: blocks of rows."""
    for one in matrices:
        height = max(1, kind.block // one[0].nbytes)
        for start in range(0, len(one), height):
            flat = one[start : start + height].reshape(-1)
            ends = pa.py_buffer(np.array([0, flat.nbytes], np.int32))
            if kind.type == "binary":
                yield pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(flat)])
                continue
            items = pa.Array.from_buffers(pa.float32(), flat.size, [None, pa.py_buffer(flat)])
            ends = pa.py_buffer(np.array([0, flat.size], np.int32))
            yield pa.Array.from_buffers(pa.list_(pa.float32()), 1, [None, ends], children=[items])


def groups_of(matrices: list[Matrix], kind: Kind) -> Iterator[pa.Table]:
    """Row groups of a kind's size."""
    if kind.type == "fixed":
        # rows of 768, which divides all of them
        for one in matrices:
            lists = pa.FixedSizeListArray.from_arrays(pa.array(one.reshape(-1)), 768)
            yield pa.table({"values": lists})
        return
    waiting: list[pa.Array] = []
    for row in rows_of(matrices, kind):
        waiting.append(row)
        if sum(one.nbytes for one in waiting) >= kind.group:
            yield pa.table({"values": pa.chunked_array(waiting)})
            waiting = []
    if waiting:
        yield pa.table({"values": pa.chunked_array(waiting)})


def write(path: Path, matrices: list[Matrix], kind: Kind) -> float:
    """Write them; seconds."""
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    writer: pq.ParquetWriter | None = None
    with pa.OSFile(str(path), "wb") as file:
        for table in groups_of(matrices, kind):
            if writer is None:
                writer = pq.ParquetWriter(
                    file,
                    table.schema,
                    compression=kind.codec,
                    use_dictionary=False,
                    write_statistics=False,
                    write_page_checksum=True,
                    column_encoding=_SPLIT if kind.split else None,
                )
            writer.write_table(table, row_group_size=table.num_rows)
        if writer is not None:
            writer.close()
    return time.perf_counter() - started


def read(path: Path, number: int) -> float:
    """Read one row group of the file as the reader does; seconds."""
    started = time.perf_counter()
    with pa.OSFile(str(path), "rb") as file:
        opened = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
        column = opened.metadata.row_group(number).column(0)
        file.seek(column.data_page_offset)
        zlib.crc32(file.read_buffer(column.total_compressed_size))
        found = opened.read_row_groups([number], use_threads=False).column("values")
        for chunk in found.chunks:
            np.frombuffer(chunk.buffers()[-1], np.uint8).copy()
    return time.perf_counter() - started


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    prepare()
    print(machine())
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES]
    total = sum(one.nbytes for one in matrices)
    writing = {kind: float("inf") for kind in KINDS}
    reading: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    sizes, groups = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segment.parquet"
        for turn in range(ROUNDS):
            for kind in KINDS:
                writing[kind] = min(writing[kind], write(path, matrices, kind))
                sizes[kind] = path.stat().st_size
                groups[kind] = pq.read_metadata(path).num_row_groups
                reading[kind].append(read(path, turn % groups[kind]))
    print("| | row groups | of the size | writing, MB/s | reading one group, ms |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        print(
            f"| {kind.name} | {groups[kind]} | {sizes[kind] / total:.2f} "
            f"| {total / 1e6 / writing[kind]:.0f} | {1e3 * np.median(reading[kind]):.1f} |"
        )


if __name__ == "__main__":
    main()
