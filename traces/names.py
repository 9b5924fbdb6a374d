"""How the files of a trace are called.

A sealed segment carries the digest of its own footer in its name; a write-ahead stream has the
same attempt, rank and sequence as the segment it will become, so that a reader who sees both
takes the segment. Names that begin with a dot are skipped by every Parquet discovery.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass

_PART = re.compile(
    r"a(?P<attempt>\d+)-r(?P<rank>\d+)-s(?P<sequence>\d+)-(?P<digest>[0-9a-f]{16})\.parquet"
)
_STREAM = re.compile(r"\.wal-a(?P<attempt>\d+)-r(?P<rank>\d+)-s(?P<sequence>\d+)\.arrows")
TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """Attempt, rank and sequence of one part of a table; `digest` is empty for a stream."""

    attempt: int
    rank: int
    sequence: int
    digest: str = ""

    @property
    def slot(self) -> tuple[int, int, int]:
        """What a stream and the segment made of it have in common."""
        return (self.attempt, self.rank, self.sequence)

    @property
    def file(self) -> str:
        """The file's name.

        >>> PartName(0, 1, 12, "0123456789abcdef").file
        'a0000-r00001-s000012-0123456789abcdef.parquet'
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
        return f"a{self.attempt:04d}-r{self.rank:05d}-s{self.sequence:06d}"


def parse_name(file: str) -> PartName | None:
    """Read a file's name back; None where it is no part of a trace.

    >>> parse_name("a0000-r00001-s000012-0123456789abcdef.parquet").sequence
    12
    >>> parse_name(".tmp-a0000-r00001-s000012.parquet") is None
    True
    """
    match = _PART.fullmatch(file) or _STREAM.fullmatch(file)
    if match is None:
        return None
    found = match.groupdict()
    return PartName(
        int(found["attempt"]), int(found["rank"]), int(found["sequence"]), found.get("digest", "")
    )


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
