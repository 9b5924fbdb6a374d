"""Reads a trace by docs/traces.md alone: the standard library, pyarrow and numpy, nothing of ours.

It is the second opinion on that page: where this reads something else than optgeom, one of the
three is wrong. It is short and slow on purpose.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
KEYS = ("run", "attempt", "step", "optimizer", "layer", "kind", "block", "stage")
CELL_TABLES = ("metrics", "spectra", "neurons", "updates")
KNOWN_SCHEMA = 2
FILE = re.compile(
    r"(?:\.wal-)?a([0-9]+)-r([0-9]+)-s([0-9]+)(?:-([0-9]{1,15}))?"
    r"(?:-([0-9a-f]{16})\.parquet|\.arrows)"
)


class Damaged(Exception):
    """Bytes are not what was written."""


class File(NamedTuple):
    """One file of a table; they are read in this order."""

    attempt: int
    rank: int
    first: int
    last: int
    digest: str
    path: Path


Table = list[tuple[File, list[Row]]]
"""The files that count, in their order, each with its rows."""


def digest_of(data: bytes) -> str:
    """BLAKE2b of 8 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_run(folder: Path) -> dict[str, Any]:
    """run.json, compared with its digest where it has one."""
    try:
        content: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    except ValueError as error:
        raise Damaged("run.json") from error
    digest = content.pop("digest", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
    if digest is not None and digest != digest_of(canonical):
        raise Damaged("run.json")
    if content["schema"] > KNOWN_SCHEMA:
        raise ValueError(f"schema {content['schema']} is newer than {KNOWN_SCHEMA}")
    return content


def files_of(folder: Path, *, records: bool = True) -> list[File]:
    """Which files of a table's folder count, in the order in which their rows do."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := FILE.fullmatch(path.name):
            attempt, rank, first = (int(match[number]) for number in (1, 2, 3))
            last = int(match[4] or first)
            found.append(File(attempt, rank, first, last, match[5] or "", path))
    kept = [one for one in found if one.digest] if not records else remaining(found)
    return sorted(kept)


def remaining(files: list[File]) -> list[File]:
    """Those in whose place no other counts."""

    def counts_for(other: File, one: File) -> bool:
        if (other.attempt, other.rank) != (one.attempt, one.rank):
            return False
        if (other.first, other.last) != (one.first, one.last):
            return other.first <= one.first and one.last <= other.last
        return weight(other) > weight(one)

    def weight(one: File) -> tuple[bool, int, str]:
        return bool(one.digest), one.path.stat().st_size, one.digest

    return [one for one in files if not any(counts_for(other, one) for other in files)]


def read_segment(path: Path, digest: str) -> list[Row]:
    """All rows; the footer's digest and the sums of the row groups are compared first."""
    data = path.read_bytes()
    if len(data) < 12:
        raise Damaged(path.name)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if start < 0 or digest_of(data[start:]) != digest:
        raise Damaged(path.name)
    file = pq.ParquetFile(pa.BufferReader(data))
    begin = 0
    for end, crc in json.loads(file.metadata.metadata[b"optgeom.crc32"]):
        if zlib.crc32(data[begin:end]) != crc:
            raise Damaged(path.name)
        begin = end
    rows: list[Row] = file.read().to_pylist()
    return rows


def read_stream(path: Path) -> list[Row]:
    """The rows of the whole messages."""
    data, sums = path.read_bytes(), path.with_suffix(".sums").read_bytes()
    end = 0
    for at in range(0, len(sums) - 25, 26):
        try:
            stop, crc = int(sums[at : at + 16]), int(sums[at + 17 : at + 25], 16)
        except ValueError as error:
            raise Damaged(path.name) from error
        if stop > len(data):
            break
        if zlib.crc32(data[end:stop]) != crc:
            raise Damaged(path.name)
        end = stop
    rows: list[Row] = pa.ipc.open_stream(data[:end]).read_all().to_pylist() if end else []
    return rows


def read_table(folder: Path, *, records: bool = True) -> Table:
    """The rows of each file that counts."""
    for tries_left in (2, 1, 0):
        try:
            return [
                (one, read_segment(one.path, one.digest) if one.digest else read_stream(one.path))
                for one in files_of(folder, records=records)
            ]
        except FileNotFoundError:
            if not tries_left:  # else a stream was sealed meanwhile, and its segment is there now
                raise
    raise AssertionError


def last_values(rows: Iterable[Row]) -> Row:
    """Of rows of one cell, each column's last value that is not null."""
    made: Row = {}
    for row in rows:
        made |= {name: value for name, value in row.items() if value is not None}
    return made


def decoded(row: Row) -> np.ndarray:
    """The matrix in a row of `updates`, float32."""
    kinds = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2"}
    values = np.frombuffer(row["values"], kinds[row["dtype"]]).reshape(row["rows"], row["cols"])
    if row["dtype"] == "bfloat16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float32)


class PlainTrace:
    """One run: of each step the newest attempt alone.

    Args:
        folder: the run's.
        read: reads the files of one table.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Table] = read_table):
        self.run = read_run(folder)
        self.shapes = {layer["name"]: tuple(layer["shape"]) for layer in self.run["layers"]}
        tables = {table: read(folder / table) for table in CELL_TABLES}
        self._scalars = read(folder / "scalars")
        analyses = sorted((folder / "derived").iterdir()) if (folder / "derived").is_dir() else []
        self._newest: dict[int, int] = {}
        for row in (row for files in tables.values() for _, rows in files for row in rows):
            self._newest[row["step"]] = max(row["attempt"], self._newest.get(row["step"], 0))
        self.cells = {table: self._by_cell(files) for table, files in tables.items()}
        self.derived = [
            self._by_cell(sorted(read_table(one, records=False), key=lambda it: it[0][2:5]))
            for one in analyses
        ]

    def _by_cell(self, files: Table) -> dict[tuple[Any, ...], list[Row]]:
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in (row for _, rows in files for row in rows):
            if row["attempt"] == self._newest.get(row["step"], row["attempt"]):
                cell = tuple(row[key] for key in ("step", "layer", "stage", "optimizer"))
                found.setdefault(cell, []).append(row)
        return found

    def metrics(self) -> dict[tuple[Any, ...], Row]:
        """Cell -> all its scalars; what is null is left out."""
        made: dict[tuple[Any, ...], Row] = {}
        for table in (self.cells["metrics"], self.cells["spectra"], *self.derived):
            for cell, rows in table.items():
                made[cell] = {**last_values(rows), **made.get(cell, {})}
        for row in made.values():
            row.pop("singular_values", None)
        return made

    def scalars(self) -> dict[tuple[int, str], float]:
        """(step, name) -> value."""
        best: dict[tuple[int, str], tuple[int, int]] = {}
        values: dict[tuple[int, str], float] = {}
        for file, row in ((file, row) for file, rows in self._scalars for row in rows):
            key, rank = (row["step"], row["name"]), (row["attempt"], -file.rank)
            if rank >= best.get(key, rank):
                best[key], values[key] = rank, row["value"]
        return values

    def spectrum(self, cell: tuple[Any, ...]) -> list[float] | None:
        """The singular values of a cell; None where they are null."""
        values: list[float] | None = self.cells["spectra"][cell][-1]["singular_values"]
        return values

    def neuron_norms(self, cell: tuple[Any, ...]) -> np.ndarray:
        """The norm of each row, float32; NaN where no rank has written it."""
        rows = self.cells["neurons"][cell]
        ends = [row["row_start"] + row["rows"] for row in rows]
        length = self.shapes.get(cell[1], (max(ends),))[0]
        squares = np.full(length, np.nan)
        blocks = {
            (row["row_start"], row["col_start"]): row["neuron_norms"]
            for row in rows
            if row["neuron_norms"] is not None
        }
        for (start, _), norms in blocks.items():
            there = squares[start : start + len(norms)]
            np.copyto(there, np.nan_to_num(there, nan=0.0) + np.square(norms, dtype=float))
        return np.sqrt(squares).astype(np.float32)

    def matrix(self, cell: tuple[Any, ...]) -> np.ndarray | None:
        """A raw matrix, float32, rows = neurons; None where blocks of it are missing."""
        blocks = {
            (row["row_start"], row["col_start"]): decoded(row)
            for row in self.cells["updates"][cell]
        }
        rows = max(top + block.shape[0] for (top, _), block in blocks.items())
        cols = max(left + block.shape[1] for (_, left), block in blocks.items())
        whole = self.shapes.get(cell[1], (rows, cols))
        if cell[2] == "second_moment":  # one number per neuron, or per column, is whole too
            whole = (1 if rows == 1 else whole[0], 1 if cols == 1 else whole[1])
        matrix, written = np.empty(whole, np.float32), np.zeros(whole, int)
        for (top, left), block in blocks.items():
            place = slice(top, top + block.shape[0]), slice(left, left + block.shape[1])
            matrix[place] = block
            written[place] += 1
        return matrix if (written == 1).all() else None
