"""A few hundred entries of a matrix that stand for all of it: are they where the record says?

The entries lie a fixed distance apart that has no factor in common with the row's length, so that
they pass through every column. In contiguous memory picking them is a view, without an index.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

SAMPLES = 256
"""Entries that are picked at least, where a tensor has as many."""


def pick(tensor: Tensor) -> Tensor:
    """The sampled entries of a tensor; the same entries for every tensor of its shape.

    Args:
        tensor: any shape and strides.

    Returns:
        (k,), a view where the memory is contiguous, else a copy; k is at least `SAMPLES` or the
        number of entries.

    >>> pick(torch.arange(6.0).reshape(2, 3)).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    count, distance = _spread(tensor.shape)
    if tensor.is_contiguous():
        return tensor.as_strided((count,), (distance,))
    return tensor[_indices(tensor.shape, tensor.device)]


@lru_cache(maxsize=1024)
def _spread(shape: torch.Size) -> tuple[int, int]:
    """How many entries are picked, and how far apart they are."""
    entries = shape.numel()
    row = shape[-1] if shape else 1
    distance = max(1, entries // SAMPLES)
    while math.gcd(distance, row) != 1:
        distance -= 1
    return -(-entries // distance), distance


@lru_cache(maxsize=1024)
def _indices(shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
    count, distance = _spread(shape)
    flat = torch.arange(count, device=device) * distance
    return torch.unravel_index(flat, shape)
