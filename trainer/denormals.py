"""Numbers too small to be normal, taken as zero while a run lasts.

AdamW's moments of rows that get no gradient decay into denormal numbers, on which a CPU is many
times slower. The setting belongs to the thread; it is put back afterwards, since other code in
the process may rely on IEEE arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def denormals_are_zero() -> bool:
    """Whether this thread computes half of the smallest normal number as zero."""
    return sys.float_info.min / 2 == 0.0


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take denormal numbers as zero inside the block, where the CPU can.

    Threads that torch starts inside keep the setting; those it has started before never get it.
    """
    before = denormals_are_zero()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
