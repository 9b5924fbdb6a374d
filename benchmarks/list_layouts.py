"""How lists of norms and singular values are best laid down in a segment.

Writes one segment of each table, as large as the writer's, of the model of ``big_runs.py``, in
several encodings and sizes of row groups; then reads one layer's lists as the reader does: open,
compare the row group's bytes with their checksum, parse. Kinds take turns, and each is taken at its
fastest. Run as ``python benchmarks/list_layouts.py``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from big_runs import COLUMNS, STAGES, Settings, list_rows, runs_of

from optgeom.traces.columns import one_chunk
from optgeom.traces.format import layout
from optgeom.traces.schema import TEXT, table_schema

LISTS = {"neurons": "neuron_norms", "spectra": "singular_values"}
STEPS = (0, 50, 100)
ROUNDS = 7


class Kind(NamedTuple):
    """One way to write; a group of 0 bytes: rows as they come, all in one."""

    name: str
    codec: str
    split: bool
    group: int
    beside: str = "lz4"


KINDS = (
    Kind("plain, zstd, rows as they come, zstd beside lists", "zstd", False, 0, "zstd"),
    Kind("split, zstd, zstd beside lists", "zstd", True, 1 << 19, "zstd"),
    Kind("plain, none", "none", False, 1 << 19),
    Kind("plain, LZ4", "lz4", False, 1 << 19),
    Kind("plain, zstd", "zstd", False, 1 << 19),
    Kind("split, none", "none", True, 1 << 19),
    Kind("split, LZ4", "lz4", True, 1 << 19),
    Kind("split, zstd", "zstd", True, 1 << 19),
    Kind("split, zstd, groups of 4 MiB", "zstd", True, 1 << 22),
    Kind("split, zstd, groups of 1 MiB", "zstd", True, 1 << 20),
    Kind("split, zstd, groups of 256 KiB", "zstd", True, 1 << 18),
    Kind("split, zstd, groups of 128 KiB", "zstd", True, 1 << 17),
)


def tables() -> Iterator[tuple[str, pa.Table]]:
    """The rows of one segment of each table of lists, as they come from a run: by step."""
    (run,) = runs_of(Settings(runs=1))
    rows: dict[str, list[pa.Table]] = {}
    for step in STEPS:
        for name, columns in list_rows(run, step):
            schema = table_schema(name, COLUMNS)
            arrays = [columns[one.name] for one in schema]
            rows.setdefault(name, []).append(pa.table(arrays, schema=schema))
    for name, parts in rows.items():
        yield name, one_chunk(pa.concat_tables(parts))


def write(path: Path, table: pa.Table, lists: str, kind: Kind) -> float:
    """Seal a table; CPU milliseconds."""
    leaf = f"{lists}.list.element"
    others = dict.fromkeys((name for name in table.schema.names if name != lists), kind.beside)
    settings: dict[str, Any] = {
        "use_dictionary": [field.name for field in table.schema if field.type == TEXT],
        "compression": others | {leaf: kind.codec},
        "column_encoding": {leaf: "BYTE_STREAM_SPLIT"} if kind.split else None,
        "write_statistics": ["attempt", "step", "layer", "stage"],
        "write_page_checksum": True,
    }
    layout.GROUP_BYTES = kind.group
    started = time.process_time()
    with pq.ParquetWriter(path, table.schema, **settings) as writer:
        for group in layout.row_groups(table) if kind.group else [table]:
            writer.write_table(group, row_group_size=group.num_rows)
    return 1e3 * (time.process_time() - started)


def read(path: Path, lists: str, share: float) -> float:
    """Read the row group of one layer; milliseconds."""
    started = time.perf_counter()
    with pa.OSFile(str(path), "rb") as file:
        opened = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
        number = int(share * opened.num_row_groups)
        group = opened.metadata.row_group(number)
        start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
        size = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        file.seek(start)
        zlib.crc32(file.read_buffer(size))
        opened.read_row_groups([number], columns=[lists], use_threads=False)
    return 1e3 * (time.perf_counter() - started)


def measured(table: pa.Table, lists: str) -> Iterator[str]:
    """A row for each kind."""
    writing = {kind: float("inf") for kind in KINDS}
    reading = dict(writing)
    sizes, groups = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segment.parquet"
        for turn in range(ROUNDS):
            for kind in KINDS:
                writing[kind] = min(writing[kind], write(path, table, lists, kind))
                for share in (0.1, 0.5, 0.9):
                    reading[kind] = min(reading[kind], read(path, lists, share + turn / 100))
                sizes[kind], groups[kind] = (
                    path.stat().st_size,
                    pq.read_metadata(path).num_row_groups,
                )
    for kind in KINDS:
        yield (
            f"| {kind.name} | {groups[kind]} | {sizes[kind] / 2**20:.1f} "
            f"| {writing[kind]:.0f} | {reading[kind]:.2f} |"
        )


def main() -> None:
    """Print a table for each kind of list."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}")
    for name, table in tables():
        rows = table.num_rows
        print(f"\n{name}: {rows} rows, {len(STEPS)} steps, {len(STAGES)} stages")
        print(
            "| lists | row groups | MB | sealing, CPU ms | one layer, ms |\n|---|---|---|---|---|"
        )
        for line in measured(table, LISTS[name]):
            print(line)


if __name__ == "__main__":
    main()
