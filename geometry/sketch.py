"""A fixed 4096-number sketch of a matrix, whose inner products estimate the matrix's own.

A count sketch with fixed buckets (Charikar, Chen & Farach-Colton 2004): entry i goes to bucket
i mod 4093 with a fixed pseudo-random sign. 4093 is prime, so the entries of a column, or of a few
rows, land in different buckets whatever the width is; where it divides the width, 4091 serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.overlaps import is_safe

SKETCH_SIZE = 4096
_PRIMES = (4093, 4091)
_BLOCK = 16
"""Chunks of one entry per bucket that have signs of their own: a quarter of a MB of signs."""

_SHIFT = 16
"""How far one block's signs lie from the next one's: a cache line."""

_SEED = 0x9E3779B97F4A7C15


def sketch(matrix: Tensor) -> Tensor:
    """Sketch of a matrix: linear, deterministic, the same on every machine up to rounding.

    Draws nothing from any random generator. Reads the matrix once, and never waits for a device.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.

    Returns:
        (4096,) float64 for float64 input, else float32, on the matrix's device. For two matrices of
        one shape the cosine of their sketches is their cosine c with standard error
        (1 - c^2) / 64; up to 1.5 times that where all entries are much alike, and more where a few
        entries hold most of the norm.
    """
    matrix = matrix.detach()
    if matrix.device.type != "cpu":
        return blind_sketch(matrix)
    narrow = matrix.dtype not in (torch.float32, torch.float64)
    return torch.from_numpy(_host_sketch((matrix.to(torch.float32) if narrow else matrix).numpy()))


def blind_sketch(matrix: Tensor) -> Tensor:
    """The same as `sketch`, by PyTorch on any device, which is not waited for.

    Args:
        matrix: (m, n), any float dtype.

    Returns:
        As `sketch`.
    """
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    signs = _signs_on(matrix.device, dtype, (matrix.shape[0], matrix.shape[1]))
    found = torch.zeros(SKETCH_SIZE, dtype=dtype, device=matrix.device)
    _fill(found, matrix.to(dtype).reshape(-1), signs, lambda x, y: (x * y).sum(-2))
    return found


def sketch_of_rows(part: Tensor, *, row_start: int, rows: int) -> Tensor:
    """What some rows of a matrix add to its sketch.

    Args:
        part: (r, n), any float dtype and device.
        row_start: The place of the first one in the matrix.
        rows: m, of the whole matrix.

    Returns:
        As `sketch`; over all rows they add up to the sketch of the matrix.
    """
    dtype = torch.float64 if part.dtype == torch.float64 else torch.float32
    signs = _signs_on(part.device, dtype, (rows, part.shape[1]))
    block = _BLOCK * signs.entries.shape[2]
    before, offset = divmod(row_start * part.shape[1], block)
    flat = torch.cat([part.new_zeros(offset, dtype=dtype), part.detach().to(dtype).reshape(-1)])
    found = torch.zeros(SKETCH_SIZE, dtype=dtype, device=part.device)
    own = _Signs(signs.entries[before:], signs.blocks[before:])
    _fill(found, flat, own, lambda x, y: (x * y).sum(-2))
    return found


def _host_sketch(matrix: NDArray[Any]) -> NDArray[Any]:
    signs = _signs(matrix.dtype, matrix.shape)
    found = np.zeros(SKETCH_SIZE, dtype=matrix.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        _fill(found, matrix.reshape(-1), signs, partial(np.einsum, "...ij,...ij->...j"))
    return found


def sketch_cosines(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Cosines of pairs of sketches: estimates of the cosines of their matrices.

    Args:
        first: k sketches, (4096,), of equal device and dtype.
        second: k others of matrices of the same shapes; moved to the first ones' device.

    Returns:
        (k,) float64 on the first ones' device, between -1 and 1; NaN where a sketch is zero or not
        finite.
    """
    a = torch.stack([one.detach() for one in first])
    b = torch.stack([one.detach().to(a) for one in second])
    if a.device.type == "cpu" and a.dtype == torch.float32:
        xx, yy, xy = ((x * y).sum(-1).to(torch.float64) for x, y in ((a, a), (b, b), (a, b)))
        if all(is_safe(float(square)) for square in (*torch.aminmax(xx), *torch.aminmax(yy))):
            return (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0)
    a, b = a.to(torch.float64), b.to(torch.float64)
    a = a / a.abs().amax(-1, keepdim=True)
    b = b / b.abs().amax(-1, keepdim=True)
    sizes = a.square().sum(-1) * b.square().sum(-1)
    return ((a * b).sum(-1) / sizes.sqrt()).clamp(-1.0, 1.0)


class _Signs(NamedTuple):
    """Signs of the entries of a flat matrix, a product of two, at the memory of a few rows.

    The product of two entries' signs is what must be independent of that of two others. Within a
    block it is. The same two places in two blocks look at signs that lie `_SHIFT` apart, so that
    entries of different blocks do not agree place after place; the signs of the blocks keep apart
    what such shifts line up again.

    Attributes:
        entries: (blocks + 1, 16, buckets), a window that slides over 16 rows of signs.
        blocks: (blocks + 1,).
    """

    entries: Any
    blocks: Any


def _fill(found: Any, flat: Any, signs: _Signs, collected: Callable[[Any, Any], Any]) -> None:
    """Add signed chunks up; arrays or tensors.

    Args:
        found: (4096,) zeros.
        flat: The entries.
        signs: Of theirs.
        collected: Two of (..., i, j) to the sum over i of their product, (..., j).
    """
    buckets = signs.entries.shape[2]
    blocks = len(flat) // (_BLOCK * buckets)
    whole = blocks * _BLOCK * buckets
    if blocks:
        body = flat[:whole].reshape(blocks, _BLOCK, buckets)
        sums = collected(body, signs.entries[:blocks])
        found[:buckets] += (sums * signs.blocks[:blocks, None]).sum(0)
    chunks = (len(flat) - whole) // buckets
    if chunks:
        rest = flat[whole : whole + chunks * buckets].reshape(chunks, buckets)
        found[:buckets] += collected(rest, signs.entries[blocks, :chunks]) * signs.blocks[blocks]
    tail = flat[whole + chunks * buckets :]
    found[: len(tail)] += tail * signs.entries[blocks, chunks, : len(tail)] * signs.blocks[blocks]


@lru_cache(maxsize=64)
def _signs(dtype: np.dtype[Any], shape: tuple[int, int]) -> _Signs:
    windows, length = _windows(shape)
    drawn = _drawn(length).astype(dtype)
    strides = (_SHIFT * drawn.itemsize, *drawn.strides)
    entries = np.lib.stride_tricks.as_strided(drawn, windows, strides, writeable=False)
    return _Signs(entries, drawn[_BLOCK, : windows[0]])


@lru_cache(maxsize=64)
def _signs_on(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> _Signs:
    windows, length = _windows(shape)
    drawn = torch.from_numpy(_drawn(length)).to(device=device, dtype=dtype)
    return _Signs(drawn.as_strided(windows, (_SHIFT, length, 1)), drawn[_BLOCK, : windows[0]])


def _windows(shape: tuple[int, int]) -> tuple[tuple[int, int, int], int]:
    """Shape of the signs' windows for a matrix, and how long the rows under them are."""
    buckets = _PRIMES[1] if shape[1] % _PRIMES[0] == 0 else _PRIMES[0]
    blocks = shape[0] * shape[1] // (buckets * _BLOCK)
    return (blocks + 1, _BLOCK, buckets), buckets + blocks * _SHIFT


def _drawn(length: int) -> NDArray[np.float64]:
    """Signs of the 16 rows of a block, and of the blocks; the beginnings of endless sequences."""
    starts = np.arange(_BLOCK + 1, dtype=np.uint64)[:, None] << np.uint64(40)
    bits = _mixed(starts + np.arange(length, dtype=np.uint64)) & np.uint64(1)
    signs: NDArray[np.float64] = 1.0 - 2.0 * bits.astype(np.float64)
    return signs


def _mixed(counter: NDArray[Any]) -> NDArray[Any]:
    """SplitMix64 (Steele, Lea & Flood 2014): a counter to 64 well-mixed bits."""
    z = (counter + np.uint64(1)) * np.uint64(_SEED)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
