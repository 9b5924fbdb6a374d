"""A fixed 4096-number sketch of a matrix, whose inner products estimate the matrix's own.

A count sketch with fixed buckets (Charikar, Chen & Farach-Colton 2004): entry i goes to bucket
i mod 4093 with a fixed pseudo-random sign. 4093 is prime, so the entries of a column, or of a few
rows, land in different buckets whatever the width is; where it divides the width, 4091 serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optgeom.geometry.norms import room_for
from optgeom.geometry.overlaps import CHUNK, is_safe

SKETCH_SIZE = 4096
_PRIMES = (4093, 4091)
_SEED = 0x9E3779B97F4A7C15


def sketch(matrix: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Sketch of a matrix: linear, deterministic, the same on every machine up to rounding.

    Draws nothing from any random generator. Reads the matrix once; needs no host synchronization.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.
        scratch: As for `norms_pass`.

    Returns:
        (4096,) float64 for float64 input, else float32, on the matrix's device. For two matrices of
        one shape the cosine of their sketches is their cosine c with standard error
        (1 - c^2) / 64; more where a few entries hold most of the norm.
    """
    buckets = _PRIMES[1] if matrix.shape[-1] % _PRIMES[0] == 0 else _PRIMES[0]
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    flat = matrix.detach().to(dtype).reshape(-1)
    signs = _signs(flat.numel(), buckets, flat.device, dtype)
    found = torch.zeros(SKETCH_SIZE, dtype=dtype, device=flat.device)
    chunks = signs.entries.shape[0]
    if chunks:
        body = flat.as_strided((chunks, buckets), (buckets, 1))
        signed = torch.mul(body, signs.entries, out=room_for(body, scratch))
        # Written with out=, it is none of autocast's business.
        torch.mv(signed.mT, signs.chunks, out=found[:buckets])
    rest = flat.numel() - chunks * buckets
    if rest:
        found[:rest].addcmul_(flat[-rest:], signs.tail)
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
        x, y = (stack.numpy().reshape(len(first), -1, CHUNK) for stack in (a, b))
        pairs = ((x, x), (y, y), (x, y))
        with np.errstate(over="ignore", invalid="ignore"):
            xx, yy, xy = (np.vecdot(*pair).sum(-1, dtype=np.float64) for pair in pairs)
        if all(is_safe(square) for square in (xx.min(), xx.max(), yy.min(), yy.max())):
            return torch.from_numpy(np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0))
    a, b = a.to(torch.float64), b.to(torch.float64)
    a = a / a.abs().amax(-1, keepdim=True)
    b = b / b.abs().amax(-1, keepdim=True)
    sizes = a.square().sum(-1) * b.square().sum(-1)
    return ((a * b).sum(-1) / sizes.sqrt()).clamp(-1.0, 1.0)


class _Signs(NamedTuple):
    """Signs of the entries of a flat matrix.

    A window sliding by one over one sign vector, times one more sign per chunk: signs of entries in
    one bucket are independent, at the memory of a vector instead of a matrix.
    """

    entries: Tensor
    chunks: Tensor
    tail: Tensor


@lru_cache(maxsize=64)
def _signs(count: int, buckets: int, device: torch.device, dtype: torch.dtype) -> _Signs:
    chunks, rest = divmod(count, buckets)
    bits = _mixed(np.arange(2 * (chunks + 1) + SKETCH_SIZE, dtype=np.uint64)) & np.uint64(1)
    signs = torch.from_numpy(1.0 - 2.0 * bits.astype(np.float64)).to(device=device, dtype=dtype)
    window, outer = signs[chunks + 1 :].contiguous(), signs[: chunks + 1].contiguous()
    return _Signs(
        entries=window.as_strided((chunks, buckets), (1, 1)),
        chunks=outer[:chunks],
        tail=window[chunks : chunks + rest] * outer[chunks],
    )


def _mixed(counter: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea & Flood 2014): a counter to 64 well-mixed bits."""
    z = (counter + np.uint64(1)) * np.uint64(_SEED)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
