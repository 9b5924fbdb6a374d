"""What a stranger's segments may be."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces.format.footer import INDEX, footer_digest
from tests.traces.crafting import Craft, Page, index_of, page, put_segment
from tests.traces.thrift import BINARY, I32, I64, LIST, STRUCT, write_struct
from tests.traces.trees import segment

MIB = 1 << 20
GIB = 1 << 30


def crafted(table: str, change: Callable[[Craft], Any]) -> Callable[[Path], None]:
    """A case whose one segment is taken apart, changed, and written with right checksums."""

    def case(run: Path) -> None:
        made = Craft.of(segment(run, table))
        change(made)
        made.write(run / table)

    return case


def column(name: str, change: Callable[[Craft, int], Any]) -> Callable[[Craft], Any]:
    return lambda made: change(made, made.column(name))


def pages(
    table: str,
    name: str,
    make: Callable[[], list[Page]],
    *,
    values: int | None = None,
    codec: int = 6,
) -> Callable[[Path], None]:
    """A column whose pages are others (codec 6: zstd; 0: none)."""

    def change(made: Craft, at: int) -> None:
        made.pages[0][at] = make()
        meta = made.meta(at)
        meta[4] = (I32, codec)
        if values is not None:
            meta[5] = (I64, values)
        if make()[0].header[1][1] == 2:
            meta[11] = (I64, 4)
        else:
            meta.pop(11, None)

    def without_index(made: Craft) -> None:
        made.notes.pop(INDEX, None)
        column(name, change)(made)

    return crafted(table, without_index)


def zeros(size: int) -> bytes:
    """That many zeros, in few bytes."""
    return pa.compress(bytes(size), "zstd", asbytes=True)


def header_says(field: int, value: int) -> Callable[[Path], None]:
    def change(made: Craft, at: int) -> None:
        made.pages[0][at][-1].header[field] = (I32, value)

    return crafted("metrics", column("neuron_norm_cv", change))


def inner_says(field: int, value: int) -> Callable[[Path], None]:
    def change(made: Craft, at: int) -> None:
        made.pages[0][at][-1].header[5][1][field] = (I32, value)

    return crafted("metrics", column("neuron_norm_cv", change))


def meta_says(field: int, value: int, name: str = "neuron_norm_cv") -> Callable[[Path], None]:
    def change(made: Craft, at: int) -> None:
        made.fixed = False
        made.meta(at)[field] = (I64, value)

    return crafted("metrics", column(name, change))


def rows(count: int) -> Callable[[Path], None]:
    def change(made: Craft) -> None:
        made.footer[3] = (I64, count)
        made.groups()[0][3] = (I64, count)

    return crafted("metrics", change)


def all_rows(count: int) -> Callable[[Path], None]:
    """Every column claims many values, all null, in pages of some bytes."""

    def change(made: Craft) -> None:
        made.footer[3] = (I64, count)
        made.groups()[0][3] = (I64, count)
        for at in range(len(made.pages[0])):
            level = _run(0, count)
            data = len(level).to_bytes(4, "little") + level
            made.pages[0][at] = [page(len(data), count, data)]
            meta = made.meta(at)
            meta[5], meta[4] = (I64, count), (I32, 0)
            meta.pop(11, None)

    return crafted("metrics", change)


def _run(value: int, count: int) -> bytes:
    """A run of equal levels, as RLE has it."""
    out, left = bytearray(), count << 1
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    return bytes([*out, left, value])


def sums(value: Any) -> Callable[[Path], None]:
    return crafted("metrics", lambda made: setattr(made, "sums", value))


def nested_sums(made: Craft) -> None:
    made.sums = b"[" * 100_000 + b"]" * 100_000


def sparse(table: str, *, footer: int) -> Callable[[Path], None]:
    """A file of a terabyte, with a footer that claims so many bytes."""

    def case(run: Path) -> None:
        path = segment(run, table)
        tail = footer.to_bytes(4, "little") + b"PAR1"
        name = path.name.rpartition("-")[0]
        made = put_segment(path.parent, b"PAR1", footer_digest(tail), name)
        os.truncate(made, 1 << 40)
        with made.open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(tail)

    return case


def large_footer(run: Path) -> None:
    """A digest that is right, of zeros that are no index."""
    path = segment(run, "metrics")
    tail = bytes(40 * MIB) + (40 * MIB).to_bytes(4, "little") + b"PAR1"
    put_segment(path.parent, b"PAR1" + tail, footer_digest(tail), path.name.rpartition("-")[0])


def sparse_group(run: Path) -> None:
    """A row group of two hundred gigabytes of holes."""
    made = Craft.of(segment(run, "metrics"))
    size = 200 * GIB
    made.sums = [[size, 0]]
    data, digest = made.build()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    path = put_segment(run / "metrics", data[: -len(footer)], digest, made.name.stem)
    os.truncate(path, size)
    with path.open("ab") as file:
        file.write(footer)


def many_groups(run: Path) -> None:
    made = Craft.of(segment(run, "metrics"))
    empty = {1: (LIST, (STRUCT, [])), 2: (I64, 0), 3: (I64, 0)}
    made.footer[4] = (LIST, (STRUCT, [empty] * 70_000))
    made.pages, made.sums = [[] for _ in range(70_000)], []
    made.footer[3] = (I64, 0)
    made.write(run / "metrics")


def many_columns(made: Craft) -> None:
    schema = made.footer[2][1][1]
    leaf = {1: (I32, 5), 3: (I32, 1), 4: (BINARY, b"x")}
    schema[0][5] = (I32, 20_001)
    schema[1:] = [leaf] * 20_001
    made.notes.pop(b"ARROW:schema")


def deep_schema(made: Craft) -> None:
    schema = made.footer[2][1][1]
    group = {3: (I32, 1), 4: (BINARY, b"g"), 5: (I32, 1)}
    schema[1:] = [*[group] * 30_000, {1: (I32, 5), 3: (I32, 1), 4: (BINARY, b"x")}]
    schema[0][5] = (I32, 1)


def arrow_schema(schema: pa.Schema) -> Callable[[Craft], None]:
    return lambda made: made.notes.__setitem__(
        b"ARROW:schema", base64.b64encode(schema.serialize())
    )


def index(change: Callable[[pa.Table], pa.Table | bytes]) -> Callable[[Path], None]:
    """A case whose index is another."""

    def case(made: Craft) -> None:
        data, _ = made.build()
        table = pq.read_table(pa.BufferReader(data)).drop_columns(["values"])
        new = change(table)
        if isinstance(new, pa.Table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, new.schema) as writer:
                writer.write_table(new)
            new = sink.getvalue()
        made.notes[INDEX] = index_of(new)

    return crafted("updates", case)


def compressed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.unify_dictionaries().combine_chunks())
    return sink.getvalue().to_pybytes()


def claims(table: pa.Table) -> bytes:
    """An index whose buffers claim a terabyte each, uncompressed."""
    data = bytearray(compressed(table))
    magic, at = b"\x28\xb5\x2f\xfd", 0
    while (at := data.find(magic, at + 1)) >= 0:
        struct.pack_into("<q", data, at - 8, 1 << 40)
    return bytes(data)


def other(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, values)


def bomb(table: pa.Table) -> bytes:
    """An index of the right rows, with one column more that grows a thousandfold."""
    zero = pa.array([bytes(300 * MIB)] + [b""] * (table.num_rows - 1), pa.binary())
    return compressed(table.append_column("more", zero))


def beyond(table: pa.Table) -> pa.Table:
    """Indices that point beyond their dictionary."""
    indices = pa.array([10**6] * table.num_rows, pa.int32())
    words = pa.DictionaryArray.from_arrays(indices, ["a"], safe=False)
    return other(table, "layer", words)


def block(name: str, value: Any) -> Callable[[Path], None]:
    """A block of a raw matrix that claims another place."""

    def change(made: Craft, at: int) -> None:
        made.notes.pop(INDEX, None)
        (last,) = made.pages[0][at]
        count = last.header[5][1][1][1]
        data = np.full(count, value, "<i4").tobytes()
        level = _run(1, count)
        made.pages[0][at] = [
            page(4 + len(level) + len(data), count, len(level).to_bytes(4, "little") + level + data)
        ]

    return crafted("updates", column(name, change))


def words(count: int) -> Callable[[], list[Page]]:
    """A dictionary of so many words, and six rows."""

    def make() -> list[Page]:
        text = b"".join(struct.pack("<I", 7) + b"%07d" % at for at in range(count))
        level, width = _run(1, 6), 21
        indices = bytes([width]) + _run(0, 6)[:-1] + bytes(3)
        data = len(level).to_bytes(4, "little") + level + indices
        stored = [pa.compress(one, "zstd", asbytes=True) for one in (text, data)]
        return [
            Page(page(len(text), count, stored[0], dictionary=True).header, stored[0]),
            page(len(data), 6, stored[1], encoding=8),
        ]

    return make


def repeated_values(made: Craft) -> None:
    """Raw values by a dictionary of one long entry, which every row then has."""
    made.notes.pop(INDEX, None)
    at = made.column("values")
    rows_there = made.meta(at)[5][1]
    entry = struct.pack("<I", 200 * MIB) + bytes(200 * MIB)
    level = _run(1, rows_there)
    data = len(level).to_bytes(4, "little") + level + bytes([1]) + _run(0, rows_there)
    packed = [pa.compress(one, "zstd", asbytes=True) for one in (entry, data)]
    made.pages[0][at] = [
        page(len(entry), 1, packed[0], dictionary=True),
        page(len(data), rows_there, packed[1], encoding=8),
    ]
    made.meta(at)[4], made.meta(at)[11] = (I32, 6), (I64, 4)


def twice(made: Craft, at: int) -> None:
    """The size of a page twice: first a large one, and then one that another reader might take."""
    last = made.pages[0][at][-1]
    large = write_struct({1: last.header[1], 2: (I32, (1 << 31) - 1)})[:-1]
    small = bytes([I32]) + write_struct({2: last.header[2]})[1:-1]
    # the number of the field in full, for it does not ascend
    small = bytes([I32, 4]) + small[1:]
    rest = write_struct({1: last.header[3], 3: last.header[5]})
    made.pages[0][at][-1] = Page({}, large + small + rest + last.data)


CASES: dict[str, Callable[[Path], Any]] = {
    "a footer of four gigabytes": sparse("metrics", footer=(1 << 32) - 100),
    "a footer of 40 megabytes": large_footer,
    "a row group of 200 gigabytes": sparse_group,
    "70,000 row groups": many_groups,
    "20,000 columns": crafted("metrics", many_columns),
    "a schema 30,000 deep": crafted("metrics", deep_schema),
    "10^12 rows": rows(10**12),
    "fewer rows than none": rows(-5),
    "2^62 rows": rows(1 << 62),
    "two hundred million rows of nothing": all_rows(200_000_000),
    "two million rows of nothing": all_rows(2_000_000),
    "200,000 rows of nothing": all_rows(200_000),
    "the size of a page twice": crafted("metrics", column("neuron_norm_cv", twice)),
    "a page of two gigabytes": header_says(2, (1 << 31) - 1),
    "a page of less than nothing": header_says(2, -5),
    "a page with more bytes than there are": header_says(3, (1 << 31) - 1),
    "a page with fewer bytes than none": header_says(3, -1),
    "a page of an unknown kind": header_says(1, 77),
    "a page of two billion values": inner_says(1, (1 << 31) - 1),
    "a page of fewer values than none": inner_says(1, -1),
    "a page in deltas": inner_says(2, 7),
    "a chunk before the file": meta_says(9, -1000),
    "a chunk behind the file": meta_says(9, 1 << 50),
    "a chunk of 2^60 bytes": meta_says(7, 1 << 60),
    "a chunk of fewer bytes than none": meta_says(7, -1),
    "a chunk of 2^50 values": meta_says(5, 1 << 50),
    "a dictionary before the file": meta_says(11, -4, "status"),
    "a codec of no name": crafted(
        "metrics", column("lr", lambda made, at: made.meta(at).__setitem__(4, (I32, 2)))
    ),
    "300 megabytes of zeros": pages(
        "metrics", "lr", lambda: [page(300 * MIB, 12, zeros(300 * MIB))]
    ),
    "pages of 200 megabytes of zeros": pages(
        "metrics", "lr", lambda: [page(200 * MIB, 3, zeros(200 * MIB))] * 4
    ),
    "a dictionary of empty words": pages(
        "metrics",
        "status",
        lambda: [
            page(200 * MIB, 50 * MIB, zeros(200 * MIB), dictionary=True),
            page(8, 12, pa.compress(bytes(8), "zstd", asbytes=True), encoding=8),
        ],
    ),
    "two million words": pages("scalars", "name", words(2_000_000)),
    "half a million words": pages("scalars", "name", words(500_000)),
    "raw values of one long entry": crafted("updates", repeated_values),
    "sums of floats": sums([[1.5, 3]]),
    "sums of texts": sums([["9", "9"]]),
    "sums of NaN": sums([[float("nan"), float("inf")]]),
    "sums before the file": sums([[-5, 0]]),
    "sums behind the file": sums([[10**15, 0]]),
    "sums of 10^300": sums([[10**300, 0]]),
    "sums of many row groups": sums([[4, 0]] * 1000),
    "sums in an object": sums({"a": 1}),
    "sums of null": sums([None]),
    "sums that nest": crafted("metrics", nested_sums),
    "sums of triples": sums([[4, 0, 0]]),
    "an index that claims terabytes": index(claims),
    "an index that is a bomb": index(bomb),
    "an index of other rows": index(lambda table: pa.concat_tables([table, table])),
    "an index of no rows": index(lambda table: table.slice(0, 0)),
    "an index beyond its words": index(beyond),
    "an index of other types": index(
        lambda table: other(table, "step", pa.array([{"a": 1}] * table.num_rows))
    ),
    "an index of texts for steps": index(
        lambda table: other(table, "step", pa.array(["x"] * table.num_rows))
    ),
    "an index without steps": index(lambda table: table.drop_columns(["step"])),
    "an index with other layers": index(
        lambda table: other(table, "layer", pa.array(["x"] * table.num_rows))
    ),
    "an index of nulls": index(
        lambda table: other(table, "step", pa.nulls(table.num_rows, pa.int64()))
    ),
    "an index of steps before 0": index(
        lambda table: other(table, "step", pa.array([-(1 << 63)] * table.num_rows))
    ),
    "an index that is no stream": index(lambda _: b"\xff" * 400),
    "an index that is empty": index(lambda _: b""),
    "an index that is no base64": crafted(
        "updates", lambda made: made.notes.__setitem__(INDEX, b"\xff\x00")
    ),
    "columns of structs by Arrow's word": crafted(
        "metrics", arrow_schema(pa.schema([("step", pa.struct({"a": pa.int8()}))]))
    ),
    "Arrow's schema is none": crafted(
        "metrics", lambda made: made.notes.__setitem__(b"ARROW:schema", b"####")
    ),
    "blocks of two billion rows": block("rows", 2**31 - 1),
    "blocks before row 0": block("row_start", -3),
    "blocks before column 0": block("col_start", -(2**31)),
    "blocks far behind": block("row_start", 2**31 - 2),
    "blocks of fewer columns than none": block("cols", -4),
    "blocks of no rows": block("rows", 0),
}
HARMLESS = {
    "half a million words",  # some more words than anyone has, and no more
    "blocks far behind",  # others are missing before them, which is no damage
    "columns of structs by Arrow's word",  # Arrow takes what the columns are
}
