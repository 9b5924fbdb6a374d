"""Raw matrices must not fill the disk that the run needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from optgeom.hooks.layers import Layer
from optgeom.traces.printable import size_in_words
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.spool import PART

ROOM_ENDS = (
    "raw matrices end before step %d: with it they would take more than %s, a tenth of what "
    "was free at the start; all else goes on"
)
"""What is said then, of the step and the room."""

ENTRY_BYTES = 4
"""They are stored as float32."""


@dataclass(frozen=True, slots=True)
class Room:
    """What raw matrices may take of a disk.

    Attributes:
        size: in bytes.
        stay: they stay on it; else an object store takes them, the writer sees to it that no more
            wait, and only the matrices of one step must fit.
    """

    size: int
    stay: bool = True

    @property
    def words(self) -> str:
        """Its size as it is said."""
        return size_in_words(self.size)

    def holds(self, taken: int, more: int) -> bool:
        """Whether there is room for so many bytes more, beside those of earlier captures."""
        return (taken if self.stay else 0) + more <= self.size


def room_of(writer: TraceWriter) -> Room:
    """The room for the raw matrices of a run, from what is free now."""
    return Room(room_for_updates(writer.path), stay=writer.place.is_local)


def room_for_updates(folder: Path) -> int:
    """The bytes that raw matrices may take, from what is free now."""
    return shutil.disk_usage(folder).free // PART


def raw_bytes(layers: Iterable[Layer], stages: int) -> int:
    """The most that the raw matrices of a step take.

    Args:
        layers: whose matrices are stored.
        stages: how many of each.
    """
    return ENTRY_BYTES * stages * sum(prod(layer.shape) for layer in layers)
