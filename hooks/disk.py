"""Raw matrices must not fill the disk that the run needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from math import prod
from pathlib import Path

from optgeom.hooks.layers import Layer

PART = 10
"""Raw matrices may take one part in so many of what was free at the start."""

ROOM_ENDS = (
    "raw matrices end before step %d: with it they would take more than %.3g GB, a tenth of what "
    "was free at the start; all else goes on"
)
"""What is said then, of the step and the room."""

ENTRY_BYTES = 4
"""They are stored as float32."""


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
