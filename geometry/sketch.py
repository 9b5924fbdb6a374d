"""A fixed 4096-number sketch of a matrix, whose inner products estimate the matrix's own.

A count sketch with fixed buckets (Charikar, Chen & Farach-Colton 2004): entry i goes to bucket
i mod 4093 with a fixed pseudo-random sign. 4093 is prime, so the entries of a column, or of a few
rows, land in different buckets whatever the width is; where it divides the width, 4091 serves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

SKETCH_SIZE = 4096
_PRIMES = (4093, 4091)
_SEED = 0x9E3779B97F4A7C15


@torch.no_grad()
def sketch(matrix: Tensor) -> Tensor:
    """Sketch of a matrix: linear, deterministic, the same on every machine up to rounding.

    Draws nothing from any random generator. Reads the matrix once.

    Args:
        matrix: (m, n), any float dtype and device; left as it is.

    Returns:
        (4096,) float64 for float64 input, else float32, on the matrix's device. For two matrices of
        one shape the cosine of their sketches is their cosine c with standard error
        (1 - c^2) / 64; more where a few entries hold most of the norm.
    """
    buckets = _PRIMES[1] if matrix.shape[-1] % _PRIMES[0] == 0 else _PRIMES[0]
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    flat = matrix.to(dtype).reshape(-1)
    chunks, rest = divmod(flat.numel(), buckets)
    # A window sliding by one over one sign vector, times one more sign per chunk: signs of
    # entries in one bucket are independent, at the memory of a vector instead of a matrix.
    window, outer = _signs(chunks + 1, flat.device, dtype)
    body = flat[: chunks * buckets].view(chunks, buckets)
    signed = body * window.as_strided((chunks, buckets), (1, 1))
    with torch.autocast(flat.device.type, enabled=False):
        sums = outer[:chunks] @ signed
    tail = flat[chunks * buckets :] * window[chunks : chunks + rest] * outer[chunks]
    sums[:rest] += tail
    return pad(sums, (0, SKETCH_SIZE - buckets))


@torch.no_grad()
def sketch_cosine(first: Tensor, second: Tensor) -> float | None:
    """Cosine of two sketches: an estimate of the cosine of their matrices.

    Args:
        first: (4096,) of one matrix.
        second: (4096,) of another of the same shape.

    Returns:
        Between -1 and 1, or None where a sketch is zero or not finite.
    """
    a = first.to(torch.float64)
    b = second.to(a)
    a = a / a.abs().amax()
    b = b / b.abs().amax()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    return max(-1.0, min(1.0, cosine)) if np.isfinite(cosine) else None


@lru_cache(maxsize=64)
def _signs(chunks: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    bits = _mixed(np.arange(2 * chunks + SKETCH_SIZE, dtype=np.uint64)) & np.uint64(1)
    signs = torch.from_numpy(1.0 - 2.0 * bits.astype(np.float64)).to(device=device, dtype=dtype)
    return signs[chunks:].contiguous(), signs[:chunks].contiguous()


def _mixed(counter: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea & Flood 2014): a counter to 64 well-mixed bits."""
    z = (counter + np.uint64(1)) * np.uint64(_SEED)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
