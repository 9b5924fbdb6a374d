"""What a compaction did, or would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Merged:
    """Segments that became one.

    Attributes:
        table: of the trace.
        into: the new segment, within the trace; in a dry run its name without the digest.
        segments: how many it was made of.
        rows: that it holds; in a dry run those that are in segments already.
        bytes: of those that it was made of.
    """

    table: str
    into: str
    segments: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Left:
    """A file that was left where it is.

    Attributes:
        file: within the trace.
        why: one line.
        damaged: records are lost or in doubt; otherwise it may be merged another time.
    """

    file: str
    why: str
    damaged: bool


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of a trace's files.

    Attributes:
        path: of the trace, as it may be shown.
        dry_run: nothing was changed; the numbers are what would be.
        files_before: how many files it had.
        files_after: and how many it has now.
        bytes_before: their bytes.
        bytes_after: and those of now; in a dry run the same as before.
        sealed: streams of processes that have ended, which became segments.
        removed: files that others had taken the place of before, such as after a kill.
        merged: segments that became one.
        left: what was left as it is, and why.
        seconds: that it took.
    """

    path: str
    dry_run: bool
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    sealed: tuple[str, ...]
    removed: tuple[str, ...]
    merged: tuple[Merged, ...]
    left: tuple[Left, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing of it is damaged."""
        return not any(one.damaged for one in self.left)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)
