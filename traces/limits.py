"""What a trace may ask of its reader: each limit one constant, with its reason.

A trace from a stranger has right checksums, for whoever makes a file can compute them. So sizes
are compared with these before memory is taken for them. What runs write stays far below.
"""

from __future__ import annotations

from optgeom.traces.errors import DamagedTrace

MAX_RUN_BYTES = 128 << 20
"""Bytes of run.json: a model of 100,000 layers makes 46 MB."""

MAX_RUN_VALUES = 1 << 23
"""Values in run.json, counted by its commas and brackets before it is parsed: each may take a
hundred bytes in memory. A model of 100,000 layers makes 2.3 million."""

MAX_RUN_DEPTH = 64
"""How deep lists and objects of run.json may nest: settings of trainers stay within ten."""

MAX_LAYERS = 1 << 19
"""Layers that run.json may name: five times 100,000."""

MAX_SIDE = 1 << 24
"""Rows or columns of a matrix: the largest vocabularies have some 2^20. The norms of all rows of
one matrix are made as one array, whatever was recorded of them."""

MAX_COLUMNS = 4096
"""Columns of a table: the catalogue has some eighty."""

MAX_FILES = 1 << 20
"""Files of one trace, and of each folder in it: 100,000 steps with raw matrices make 100,000."""

MAX_FOOTER_BYTES = 32 << 20
"""Bytes of a segment's footer but for its index: parsed, it takes up to forty times as many. A
segment of 2 GiB of lists has some 10 MB."""

MAX_INDEX_BYTES = 256 << 20
"""Bytes of the index in a footer: that of 10 million rows has some 30 MB."""

MAX_GROUPS = 1 << 16
"""Row groups of a segment: 2 GiB of lists make 4,096."""

MAX_GROUP_BYTES = 1 << 30
"""Bytes of one row group in the file: raw matrices come in blocks of 16 MiB, 20 MiB together."""

MAX_PAGE_BYTES = 256 << 20
"""Bytes that one page takes uncompressed: one block of a raw matrix has 16 MiB, or one row."""

FREE_ROWS = 1 << 18
"""Rows that a segment of any size may have: writers seal at 65,536."""

ROWS_PER_BYTE = 16
"""Rows for each byte of a segment beyond FREE_ROWS: rows that say the least take a tenth of a byte
each."""

FREE_DECODED_BYTES = 256 << 20
"""Bytes in memory that what is read at once of a file may take, however small the file is: ten
million rows of keys."""

MAX_EXPANSION = 64
"""How many times the bytes of its file what is read at once may take in memory, where that is more
than FREE_DECODED_BYTES: recorded numbers shrink to a half or a fifth, columns of one value to
nothing."""

MAX_STREAM_BYTES = 512 << 20
"""Bytes of a write-ahead stream: one is sealed at 32 MiB, after the batch that reached it, and a
batch holds at most what the writer's queue does (256 MiB)."""

MAX_MESSAGES = 1 << 18
"""Messages of a write-ahead stream: it is sealed at 65,536 rows, and a batch has one at least."""

MAX_WORDS = 1 << 20
"""Different words of a trace's text columns: names of layers, stages, statuses and scalars."""

FREE_CELLS = 1 << 26
"""Cells of a grid, of steps by layers or of steps by rows, whatever was recorded: 100,000 steps of
200 layers make 20 million."""

CELLS_PER_ROW = 8
"""Cells of a grid for each recorded row beyond FREE_CELLS: most cells of a grid have a row."""


def refuse(name: str, what: str, value: int, limit: int) -> None:
    """Raise DamagedTrace if a size is beyond its limit, or no size.

    Args:
        name: how to call the file.
        what: what has that size, such as "bytes of footer".
        value: the size.
        limit: the largest that is read.

    >>> refuse("a/run.json", "layers", 3, 8)
    >>> refuse("a/run.json", "layers", 9, 8)
    Traceback (most recent call last):
    optgeom.traces.errors.DamagedTrace: a/run.json has 9 layers, more than 8: no run wrote it
    """
    if value > limit:
        raise DamagedTrace(f"{name} has {value:,} {what}, more than {limit:,}: no run wrote it")
    if value < 0:
        raise DamagedTrace(f"{name} has {value:,} {what}: no run wrote it")


def room(size: int) -> int:
    """How many bytes in memory may be made at once of a file.

    Args:
        size: the file's, in bytes.
    """
    return max(FREE_DECODED_BYTES, MAX_EXPANSION * size)


def rows_of(size: int) -> int:
    """How many rows a segment may have.

    Args:
        size: the file's, in bytes.
    """
    return max(FREE_ROWS, ROWS_PER_BYTE * size)
