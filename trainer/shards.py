"""Files as token ids: text as bytes, token shards as they are; nothing is read before it is wanted.

What a file is follows from its name and its first bytes: ``.bin`` is a shard of token ids, with the
header of llm.c or without one; ``.jsonl`` and ``.parquet`` hold ``text`` or ``input_ids``; anything
else is text. Text becomes bytes, so a tokenizer is never needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optgeom.trainer.errors import ConfigError

Ids = NDArray[Any]

HEADER = 256
"""32-bit numbers before the tokens of a shard in llm.c's format."""

MAGIC: Mapping[int, np.dtype[Any]] = {20240520: np.dtype("<u2"), 20240801: np.dtype("<u4")}
"""First number of such a header, for GPT-2's and for Llama 3's tokens."""

END_OF_TEXT = b"\n"
"""Between the texts of one file."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One file's ids.

    Attributes:
        path: Where it lies.
        ids: (n,) unsigned; mapped from the file where it holds them as they are.
        bytes: Whether they are bytes of a text.
    """

    path: Path
    ids: Ids
    bytes: bool


class Joined:
    """Ids of several files, one after another, without a copy of them."""

    def __init__(self, parts: Sequence[Ids]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Ids:
        """All ids, (n,), copied."""
        found = self.window(0, len(self))
        return found if dtype is None else found.astype(dtype)

    def window(self, start: int, length: int) -> Ids:
        """Some ids from a place on, (length,), fewer at the end; a new array."""
        found = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for part, end in zip(self._parts[first:], self._ends[first:], strict=True):
            piece = part[start - int(end) + len(part) :][:length]
            found.append(piece)
            start, length = start + len(piece), length - len(piece)
            if not length:
                break
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint8)


def load_shard(path: Path, *, vocab_size: int) -> Shard:
    """Open one file.

    Args:
        path: Of any kind that is named above.
        vocab_size: Ids that the model knows.

    Raises:
        ConfigError: It cannot be read, is not what its name says, or holds ids that the model does
            not know, among the first million.
    """
    try:
        if path.suffix == ".bin":
            shard = Shard(path, _tokens(path), bytes=False)
        elif path.suffix == ".jsonl":
            shard = _rows(path, _json_rows(path))
        elif path.suffix == ".parquet":
            shard = _rows(path, _parquet_rows(path))
        else:
            shard = Shard(path, _mapped(path, np.dtype(np.uint8), 0), bytes=True)
    except OSError as error:
        raise ConfigError(
            f"data.corpus holds a file that cannot be read: {str(path)!r} "
            f"({error.strerror or error}); leave it out"
        ) from error
    head = shard.ids[:1_000_000]
    if len(head) and (largest := int(head.max())) >= vocab_size:
        raise ConfigError(
            f"{str(path)!r} holds the id {largest}, and model.vocab_size is {vocab_size}: "
            "set it to the tokenizer's"
        )
    return shard


def _mapped(path: Path, dtype: np.dtype[Any], offset: int) -> Ids:
    count = (path.stat().st_size - offset) // dtype.itemsize
    if count <= 0:
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))


def _tokens(path: Path) -> Ids:
    size = path.stat().st_size
    header = np.fromfile(path, dtype="<i4", count=HEADER)
    if len(header) == HEADER and int(header[0]) in MAGIC:
        dtype = MAGIC[int(header[0])]
        expected = 4 * HEADER + int(header[2]) * dtype.itemsize
        if size != expected:
            raise ConfigError(
                f"{str(path)!r} has {size} bytes, and its header promises {int(header[2])} "
                f"tokens in {expected}: it was cut, copy it again"
            )
        return _mapped(path, dtype, 4 * HEADER)
    if size % 2:
        raise ConfigError(
            f"{str(path)!r} has {size} bytes, no whole number of 16-bit tokens, and no header of "
            f"llm.c ({', '.join(map(str, MAGIC))}): it is cut, or no token shard"
        )
    return _mapped(path, np.dtype("<u2"), 0)


def _rows(path: Path, rows: Iterable[dict[str, Any]]) -> Shard:
    texts: list[bytes] = []
    ids: list[Ids] = []
    for row in rows:
        if row.get("input_ids") is not None:
            ids.append(_row_ids(path, row["input_ids"]))
        elif isinstance(row.get("text"), str):
            texts += [row["text"].encode("utf-8", "replace"), END_OF_TEXT]
        else:
            if "text" in row:
                raise ConfigError(
                    f"{str(path)!r} holds a text that is {row['text']!r:.40}: drop it"
                )
            raise ConfigError(
                f"{str(path)!r} holds a row without text or input_ids, with "
                f"{', '.join(sorted(row)) or 'nothing'}: rename the column that has them"
            )
    if texts and ids:
        raise ConfigError(f"{str(path)!r} holds rows of text and rows of ids: part them")
    if ids:
        return Shard(path, np.concatenate(ids), bytes=False)
    return Shard(path, np.frombuffer(b"".join(texts), dtype=np.uint8), bytes=True)


def _row_ids(path: Path, values: Any) -> Ids:
    found = np.asarray(values) if isinstance(values, list) and values else np.zeros(0, np.uint32)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (len(found) and found.min() < 0):
        raise ConfigError(f"{str(path)!r} holds input_ids that are no token ids: {values!r:.60}")
    return found.astype(np.uint32)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{str(path)!r}, line {number}, is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{str(path)!r}, line {number}, is no object: {line[:40]!r}")
            yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [n for n in ("input_ids", "text") if n in file.schema_arrow.names][:1]
            if not names:
                known = ", ".join(file.schema_arrow.names)
                raise ConfigError(
                    f"{str(path)!r} has no column text or input_ids, but {known}: rename it"
                )
            for batch in file.iter_batches(columns=names):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{str(path)!r} is no Parquet file: {error}") from error


def kinds(shards: Sequence[Shard]) -> set[str]:
    """What a list of files holds: "text", "token ids", or both."""
    return {"text" if shard.bytes else "token ids" for shard in shards if len(shard.ids)}
