"""How the files of a trace are called, and which of them stand for others.

A sealed segment carries the digest of its own footer in its name; a write-ahead stream has the
same attempt, rank and sequence as the segment it will become, so that a reader who sees both
takes the segment. A merged segment names the first and the last of the sequences it was made of,
and a reader takes it in their place. Names that begin with a dot are skipped by every Parquet
discovery.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

# as many digits as an int64 holds, and no digits of other scripts
_STEM = r"a(?P<attempt>[0-9]{1,18})-r(?P<rank>[0-9]{1,18})-s(?P<sequence>[0-9]{1,18})"
_PART = re.compile(_STEM + r"(-(?P<last>[0-9]{1,15}))?-(?P<digest>[0-9a-f]{16})\.parquet")
_STREAM = re.compile(r"\.wal-" + _STEM + r"\.arrows")
TEMPORARY = ".tmp-"
SET_ASIDE = "damaged"
"""The folder in a trace to which a repair moves damaged files, under their own paths."""


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """Attempt, rank and sequences of one part of a table.

    Attributes:
        attempt: which process life wrote it.
        rank: see `attempt`.
        sequence: the first, and mostly the only one.
        digest: of the segment's footer; empty for a stream.
        more: how many sequences after the first a merged segment was made of.
    """

    attempt: int
    rank: int
    sequence: int
    digest: str = ""
    more: int = 0

    @property
    def slot(self) -> tuple[int, int, int]:
        """What a stream and the segment made of it have in common."""
        return (self.attempt, self.rank, self.sequence)

    @property
    def last(self) -> int:
        """The last sequence that it holds."""
        return self.sequence + self.more

    def covers(self, other: PartName) -> bool:
        """Whether the sequences of another part are among its own.

        >>> PartName(0, 0, 3, "0123456789abcdef", 5).covers(PartName(0, 0, 8))
        True
        """
        return (
            (self.attempt, self.rank) == (other.attempt, other.rank)
            and self.sequence <= other.sequence
            and other.last <= self.last
        )

    @property
    def file(self) -> str:
        """The file's name.

        >>> PartName(0, 1, 12, "0123456789abcdef").file
        'a0000-r00001-s000012-0123456789abcdef.parquet'
        >>> PartName(0, 1, 12, "0123456789abcdef", 30).file
        'a0000-r00001-s000012-000042-0123456789abcdef.parquet'
        >>> PartName(0, 1, 12).file
        '.wal-a0000-r00001-s000012.arrows'
        """
        return f"{self.stem}-{self.digest}.parquet" if self.digest else f".wal-{self.stem}.arrows"

    @property
    def sums(self) -> str:
        """The name of the checksums beside a stream."""
        return f".wal-{self.stem}.sums"

    @property
    def stem(self) -> str:
        """The name without a digest and a suffix."""
        last = f"-{self.last:06d}" if self.more else ""
        return f"a{self.attempt:04d}-r{self.rank:05d}-s{self.sequence:06d}{last}"


@lru_cache(maxsize=1 << 14)  # every refresh and every question asks for all of them again
def parse_name(file: str) -> PartName | None:
    """Read a file's name back; None where it is no part of a trace.

    >>> parse_name("a0000-r00001-s000012-0123456789abcdef.parquet").sequence
    12
    >>> parse_name("a0000-r00001-s000012-000042-0123456789abcdef.parquet").last
    42
    >>> parse_name(".tmp-a0000-r00001-s000012.parquet") is None
    True
    """
    match = _PART.fullmatch(file) or _STREAM.fullmatch(file)
    if match is None:
        return None
    found = match.groupdict()
    first = int(found["sequence"])
    more = int(found.get("last") or first) - first
    attempt, rank = int(found["attempt"]), int(found["rank"])
    name = PartName(attempt, rank, first, found.get("digest", ""), more)
    # no other way to write it: a merged segment of one sequence, or numbers that are not padded
    return name if more >= 0 and name.file == file else None


def superseded(parts: Mapping[PartName, int]) -> dict[PartName, PartName]:
    """Which parts of a table of records others stand for, and which ones those are.

    A part goes whose sequences all lie within another's of its attempt and rank. Of two with the
    same sequences the segment counts and not the stream; of two segments the larger one, for a
    writer that outlived the sealing of its stream holds all that the other has; of those of one
    size, that of the greater digest.

    Args:
        parts: each with its size in bytes.

    Returns:
        Part -> the part that counts in its place.
    """
    found: dict[PartName, PartName] = {}
    kept: PartName | None = None
    for name in sorted(parts, key=lambda one: _precedence(one, parts[one])):
        # what begins earlier came before: only the one that reaches furthest may cover it
        if kept is not None and kept.covers(name):
            found[name] = kept
        elif kept is None or (name.attempt, name.rank, name.last) > (
            kept.attempt,
            kept.rank,
            kept.last,
        ):
            kept = name
    return found


def _precedence(name: PartName, size: int) -> tuple[object, ...]:
    digest = int(name.digest or "0", 16)
    return (*name.slot, -name.more, not name.digest, -size, -digest)


def temporary(name: str) -> str:
    """A name for a file that is being written, nobody else's.

    Threads of one process, and processes of two machines that share a folder, may write the same
    part of an analysis at once.

    >>> temporary("x.parquet") != temporary("x.parquet")
    True
    """
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{name}"


def is_stream(path: str) -> bool:
    """Whether a file is a write-ahead stream or its checksums: what grows in place.

    >>> is_stream("metrics/.wal-a0000-r00001-s000012.sums"), is_stream("metrics/x.parquet")
    (True, False)
    """
    return path.rpartition("/")[2].startswith(".wal-")
