"""Traces that no run wrote, with right checksums: segments and streams taken apart and remade."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from optgeom.traces.format.footer import INDEX, SUMS, footer_digest
from optgeom.traces.format.wal import parse_sums
from optgeom.traces.names import parse_name
from tests.traces.thrift import BINARY, I32, I64, LIST, STRUCT, Tree, read_struct, write_struct

ROW_GROUPS, NOTES, NUM_ROWS = 4, 5, 3
COLUMNS, META = 1, 3


@dataclass
class Page:
    """A header, and the bytes behind it."""

    header: Tree
    data: bytes


@dataclass
class Craft:
    """A segment in pieces: change them, and `write` it with checksums that are right again.

    Attributes:
        footer: Parquet's file metadata.
        pages: of each row group, of each column.
        notes: the footer's key-value metadata but for its checksums.
        sums: what stands there instead of the right checksums, if anything shall.
    """

    footer: Tree
    pages: list[list[list[Page]]]
    notes: dict[bytes, bytes]
    sums: Any = None
    fixed: bool = True
    name: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, path: Path) -> Craft:
        return cls.of_bytes(path.read_bytes(), parse_name(path.name))

    @classmethod
    def of_bytes(cls, data: bytes, name: Any = None) -> Craft:
        size = int.from_bytes(data[-8:-4], "little")
        footer, _ = read_struct(data[-8 - size : -8])
        pages = []
        for group in footer[ROW_GROUPS][1][1]:
            columns = []
            for column in group[COLUMNS][1][1]:
                meta = column[META][1]
                start = meta[9][1]
                if 11 in meta:
                    start = min(start, meta[11][1])
                columns.append(_pages(data[start : start + meta[7][1]]))
            pages.append(columns)
        notes = {one[1][1]: one[2][1] for one in footer[NOTES][1][1]}
        return cls(footer, pages, notes, name=name)

    def groups(self) -> list[Tree]:
        return self.footer[ROW_GROUPS][1][1]

    def meta(self, column: int, group: int = 0) -> Tree:
        return self.groups()[group][COLUMNS][1][1][column][META][1]

    def column(self, name: str) -> int:
        for at, column in enumerate(self.groups()[0][COLUMNS][1][1]):
            if column[META][1][3][1][1][0] == name.encode():
                return at
        raise KeyError(name)

    def build(self) -> tuple[bytes, str]:
        """The bytes of the file, and the digest of its footer."""
        out, sums = bytearray(b"PAR1"), []
        begin = 0
        for group, columns in zip(self.groups(), self.pages, strict=True):
            for column, pages in zip(group[COLUMNS][1][1], columns, strict=True):
                meta, start, first = column[META][1], len(out), True
                for page in pages:
                    if first and self.fixed and page.header.get(1, (I32, 0))[1] != 2:
                        meta[9], first = (I64, len(out)), False
                    out += (write_struct(page.header) if page.header else b"") + page.data
                if self.fixed:
                    if 11 in meta:
                        meta[11] = (I64, start)
                    meta[7] = (I64, len(out) - start)
            sums.append((len(out), zlib.crc32(out[begin:])))
            begin = len(out)
        told = sums if self.sums is None else self.sums
        notes = self.notes | {SUMS: told if isinstance(told, bytes) else json.dumps(told).encode()}
        items = [{1: (BINARY, key), 2: (BINARY, value)} for key, value in notes.items()]
        self.footer[NOTES] = (LIST, (STRUCT, items))
        footer = write_struct(dict(sorted(self.footer.items())))
        tail = footer + len(footer).to_bytes(4, "little") + b"PAR1"
        return bytes(out) + tail, footer_digest(tail)

    def write(self, folder: Path) -> Path:
        """Write it to a table's folder, in place of what is there."""
        data, digest = self.build()
        return put_segment(folder, data, digest, self.name.stem)


def put_segment(folder: Path, data: bytes, digest: str, stem: str) -> Path:
    for old in folder.glob(f"{stem}-*.parquet"):
        old.unlink()
    path = folder / f"{stem}-{digest}.parquet"
    path.write_bytes(data)
    return path


def page(
    size: int, values: int, data: bytes, *, dictionary: bool = False, encoding: int = 0
) -> Page:
    """A page that claims a size and a number of values."""
    inner: Tree = {1: (I32, values), 2: (I32, encoding)}
    if not dictionary:
        inner |= {3: (I32, 3), 4: (I32, 3)}
    kind = 2 if dictionary else 0
    header: Tree = {1: (I32, kind), 2: (I32, size), 3: (I32, len(data))}
    return Page(header | {7 if dictionary else 5: (STRUCT, inner)}, data)


def _pages(data: bytes) -> list[Page]:
    found, at = [], 0
    while at < len(data):
        header, at = read_struct(data, at)
        size = header[3][1]
        found.append(Page(header, data[at : at + size]))
        at += size
    return found


def write_stream(path: Path, parts: Sequence[bytes], lines: bytes | None = None) -> None:
    """Messages, and the checksums beside them."""
    end, made = 0, b""
    for one in parts:
        end += len(one)
        made += f"{end:016d} {zlib.crc32(one):08x}\n".encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(parts))
    path.with_suffix(".sums").write_bytes(made if lines is None else lines)


def read_messages(path: Path) -> list[bytes]:
    """The messages of a stream."""
    data, at, found = path.read_bytes(), 0, []
    for end, _ in parse_sums(path.with_suffix(".sums").read_bytes(), path.name):
        found.append(data[at:end])
        at = end
    return found


def sealed_run(content: dict[str, Any]) -> bytes:
    """run.json with a digest that is right."""
    content = {key: value for key, value in content.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.blake2b(canonical, digest_size=8).hexdigest()
    return json.dumps({**content, "digest": digest}).encode()


def index_of(stream: pa.Buffer | bytes) -> bytes:
    """How a footer holds an index."""
    return base64.b64encode(stream)


def regions(path: Path) -> list[tuple[str, int, int]]:
    """The parts of a file: name, begin and end of each."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        return _regions_of_segment(data)
    if path.suffix == ".arrows":
        found, at = [], 0
        for number, (end, _) in enumerate(
            parse_sums(path.with_suffix(".sums").read_bytes(), path.name)
        ):
            size = 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            name = "batch" if number else "schema"
            found += [(f"metadata of {name}", at, at + size), (f"body of {name}", at + size, end)]
            at = end
        return [one for one in found if one[1] < one[2]]
    if path.suffix == ".sums":
        return [
            (what, at + first, at + last)
            for at in range(0, len(data), 26)
            for what, first, last in (("ends", 0, 17), ("checksums", 17, 26))
        ]
    step = max(1, len(data) // 12)
    return [("json", at, min(at + step, len(data))) for at in range(0, len(data), step)]


def _regions_of_segment(data: bytes) -> list[tuple[str, int, int]]:
    size = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - size
    footer, _ = read_struct(data[start:-8])
    found = [("magic", 0, 4), ("length of the footer", len(data) - 8, len(data) - 4)]
    found.append(("magic at the end", len(data) - 4, len(data)))
    for group in footer[ROW_GROUPS][1][1]:
        for column in group[COLUMNS][1][1]:
            meta = column[META][1]
            name = meta[3][1][1][0].decode()
            at = min(meta[9][1], meta[11][1]) if 11 in meta else meta[9][1]
            end = at + meta[7][1]
            while at < end:
                header, body = read_struct(data, at)
                found.append((f"header of {name}", at, body))
                at = body + header[3][1]
                if at > body:
                    found.append((name, body, at))
    index = data.rfind(INDEX)
    if index > start:
        found.append(("index", index, index + 400))
    sums = data.rfind(SUMS)
    found.append(("checksums in the footer", sums, sums + 40))
    step = size // 8
    return [
        *found,
        *(("footer", start + at, start + at + step) for at in range(0, size - step, step)),
    ]
