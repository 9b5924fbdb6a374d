"""Matrices that a measurement must get right: of every shape, scale, spectrum and dtype.

Each is made without the code under test, from a seed of its own: one may be added or left out, and
no other changes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard
from torch import Tensor

Array = NDArray[np.float64]
DOUBLE, SINGLE = torch.float64, torch.float32
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Case:
    """A matrix, and the weight, gradient and update before of the same step.

    Attributes:
        name: What is particular about it.
        matrix: A, (m, n).
        weight: W.
        gradient: G.
        previous: The update before.
    """

    name: str
    matrix: Tensor
    weight: Tensor
    gradient: Tensor
    previous: Tensor


@cache
def cases() -> dict[str, Case]:
    """All of them, by name."""
    return {name: _case(name, make, dtype) for name, make, dtype in _families()}


def _case(name: str, make: Callable[[np.random.Generator], Array], dtype: torch.dtype) -> Case:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    matrix = make(rng)
    stored = torch.from_numpy(matrix).to(dtype)
    largest = float(np.abs(matrix).max())
    noise = rng.standard_normal((3, *matrix.shape)) * np.exp(rng.standard_normal((3, 1, 1)))
    # the companions share the matrix's direction in part, and keep a scale of their own
    weight, gradient, previous = noise + np.array([0.3, -1.0, 3.0])[:, None, None] * (
        matrix / largest
    )
    return Case(
        name,
        stored,
        torch.from_numpy(weight).to(dtype),
        torch.from_numpy(gradient).to(dtype),
        torch.from_numpy(previous).to(dtype),
    )


def orthonormal(rows: int, cols: int, rng: np.random.Generator) -> Array:
    """(rows, cols), random, with orthonormal columns."""
    q, r = np.linalg.qr(rng.standard_normal((rows, cols)))
    return q * np.sign(np.diag(r))


def with_spectrum(shape: tuple[int, int], s: Array, rng: np.random.Generator) -> Array:
    """U diag(s) V^T of a shape, U and V random orthonormal."""
    return (orthonormal(shape[0], len(s), rng) * s) @ orthonormal(shape[1], len(s), rng).T


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_Family = tuple[str, Callable[[np.random.Generator], Array], torch.dtype]
SHAPES = {"tall": (36, 14), "wide": (14, 36), "square": (24, 24)}


def _families() -> Iterator[_Family]:
    yield from _conditioned()
    yield from _deficient()
    yield from _shaped()
    yield from _scaled()
    yield from _clustered()
    yield from _uneven()
    yield from _alike()
    yield from _long()
    yield from _halves()


def _spectrum(shape: str, s: Array, scale: float = 1.0) -> Callable[[np.random.Generator], Array]:
    return lambda rng: scale * with_spectrum(SHAPES[shape], s, rng)


def _conditioned() -> Iterator[_Family]:
    for shape, (rows, cols) in SHAPES.items():
        rank = min(rows, cols)
        for power in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14):
            spread = np.geomspace(3.0, 3.0 * 10.0**-power, rank)
            yield f"{shape} float64 1e{power}", _spectrum(shape, spread), DOUBLE
        for power in (0, 1, 2, 3, 4, 5, 6, 7):
            spread = np.geomspace(3.0, 3.0 * 10.0**-power, rank)
            yield f"{shape} float32 1e{power}", _spectrum(shape, spread), SINGLE
        for power in (3, 6, 10):
            # all but one small, and none at 1e-6, which would halve a cluster for the leverage
            step = np.r_[1.0, np.geomspace(1.3, 1.1, rank - 1) * 10.0**-power]
            yield f"{shape} float64 one large 1e{power}", _spectrum(shape, step), DOUBLE
        for power in (5, 8, 10, 13):
            step = np.r_[np.ones(rank - 1), 10.0**-power]
            yield f"{shape} float64 one small 1e{power}", _spectrum(shape, step), DOUBLE
        step = np.r_[np.ones(rank - 1), 1e-5]
        yield f"{shape} float32 one small", _spectrum(shape, step), SINGLE


def _deficient() -> Iterator[_Family]:
    for shape, (rows, cols) in SHAPES.items():
        for dtype in (DOUBLE, SINGLE):
            word = _word(dtype)
            few = np.linspace(2.0, 1.0, 5)
            yield f"{shape} {word} rank 5", _spectrum(shape, few), dtype
            rest = np.r_[few, np.full(min(rows, cols) - 5, 1e-16)]
            yield f"{shape} {word} numerical rank 5", _spectrum(shape, rest), dtype
            # small integers: the rank is exact, and so is every product
            yield f"{shape} {word} integers of rank 3", _integers(shape, 3), dtype
            yield f"{shape} {word} two rows alike", _repeated(shape), dtype
    yield "row of ones times column of ones", lambda rng: np.ones((9, 7)), SINGLE


def _integers(shape: str, rank: int) -> Callable[[np.random.Generator], Array]:
    rows, cols = SHAPES[shape]
    return lambda rng: (
        rng.integers(-4, 5, (rows, rank)) @ rng.integers(-4, 5, (rank, cols))
    ).astype(np.float64)


def _repeated(shape: str) -> Callable[[np.random.Generator], Array]:
    def make(rng: np.random.Generator) -> Array:
        matrix = rng.standard_normal(SHAPES[shape])
        matrix[-1], matrix[:, -1] = matrix[0], matrix[:, 0]
        matrix[-1, -1] = matrix[0, 0]
        return matrix

    return make


def _shaped() -> Iterator[_Family]:
    for dtype in (DOUBLE, SINGLE):
        word = _word(dtype)
        for shape in ((1, 1), (1, 40), (40, 1), (2, 2), (2, 60), (60, 2), (3, 1500), (1500, 3)):
            yield f"{shape[0]} x {shape[1]} {word}", _normal(shape), dtype


def _normal(shape: tuple[int, int], scale: float = 1.0) -> Callable[[np.random.Generator], Array]:
    return lambda rng: scale * rng.standard_normal(shape)


def _scaled() -> Iterator[_Family]:
    for scale in (1e-42, 1e-38, 1e-30, 1e-18, 1e18, 1e30, 1e37):
        yield f"float32 {scale:g}", _normal((20, 30), scale), SINGLE
    for scale in (1e-309, 1e-290, 1e-160, 1e160, 1e290, 1e306):
        yield f"float64 {scale:g}", _normal((30, 20), scale), DOUBLE
    s = np.geomspace(1.0, 1e-5, 14)
    for scale in (1e-30, 1e30):
        yield f"float32 {scale:g} conditioned", _spectrum("tall", s, scale), SINGLE
    for scale in (1e-290, 1e290):
        yield f"float64 {scale:g} conditioned", _spectrum("tall", s**2, scale), DOUBLE


def _clustered() -> Iterator[_Family]:
    for shape, (rows, cols) in SHAPES.items():
        rank = min(rows, cols)
        for dtype in (DOUBLE, SINGLE):
            word = _word(dtype)
            pairs = np.repeat(np.geomspace(4.0, 0.5, rank // 2), 2)
            yield f"{shape} {word} pairs", _spectrum(shape, pairs), dtype
        cluster = np.r_[np.ones(rank // 2), np.full(rank - rank // 2, 1e-3)]
        yield f"{shape} two clusters", _spectrum(shape, cluster), DOUBLE
        close = 1.0 + 1e-12 * np.arange(rank)[::-1]
        yield f"{shape} close together", _spectrum(shape, close), DOUBLE
    yield "identity", lambda rng: np.eye(16), SINGLE
    yield "permutation", lambda rng: rng.permutation(np.eye(16)), DOUBLE


def _uneven() -> Iterator[_Family]:
    for shape, (rows, cols) in SHAPES.items():
        for decades in (2, 6, 20):
            scales = np.logspace(0.0, -decades, rows)[:, None]
            for dtype in (DOUBLE, SINGLE):
                word = _word(dtype)
                name = f"{shape} {word} rows over {decades} decades"
                yield name, _times(scales, (rows, cols)), dtype
        one = np.ones((rows, 1))
        one[3] = 1e4
        yield f"{shape} one large row", _times(one, (rows, cols)), SINGLE
        spread = np.geomspace(1.0, 1e-5, min(rows, cols))
        yield f"{shape} conditioned, rows small", _some_small(shape, spread), DOUBLE
        gone = np.ones((rows, 1))
        gone[::3] = 0.0
        yield f"{shape} zero rows", _times(gone, (rows, cols)), SINGLE
        yield f"{shape} zero rows float64", _times(gone, (rows, cols)), DOUBLE
        gone = np.ones((1, cols))
        gone[:, 1::4] = 0.0
        yield f"{shape} zero columns", _times(gone, (rows, cols)), SINGLE
    spread = np.where(np.arange(250) % 9, 1.0, 0.05)[:, None]
    yield "dormant rows", _times(spread, (250, 6)), SINGLE
    yield "single entry", lambda rng: np.eye(12, 7, k=-3) * (np.arange(7) == 2), SINGLE


def _some_small(shape: str, s: Array) -> Callable[[np.random.Generator], Array]:
    scales = np.where(np.arange(SHAPES[shape][0]) % 3, 1.0, 0.01)[:, None]
    return lambda rng: scales * with_spectrum(SHAPES[shape], s, rng)


def _times(scales: Array, shape: tuple[int, int]) -> Callable[[np.random.Generator], Array]:
    return lambda rng: scales * rng.standard_normal(shape)


def _alike() -> Iterator[_Family]:
    """Entries of one size: in every sum all terms round alike."""
    for value in (0.1, 0.7):
        for shape in ((64, 24), (24, 64), (32, 32)):
            name = f"{shape[0]} x {shape[1]} of {value}"
            yield f"constant {name}", _filled(shape, value), SINGLE
            yield f"signs {name}", _signs(shape, value), SINGLE
        yield f"hadamard of {value}", _hadamard(value), SINGLE
        yield f"signs 6 x 3000 of {value}", _signs((6, 3000), value), SINGLE
        yield f"signs 3000 x 6 of {value}", _signs((3000, 6), value), SINGLE
        yield f"constant 5 x 5000 of {value}", _filled((5, 5000), value), SINGLE
        yield f"constant 5000 x 5 of {value}", _filled((5000, 5), value), SINGLE
    yield "constant float64", _filled((40, 30), 0.1), DOUBLE
    yield "hadamard float64", _hadamard(0.7), DOUBLE
    yield "signs float64", _signs((40, 30), 0.7), DOUBLE


def _long() -> Iterator[_Family]:
    """Sums of thousands of terms, which round alike or not."""
    for shape in ((12, 3000), (3000, 12)):
        name = f"{shape[0]} x {shape[1]}"
        for dtype in (DOUBLE, SINGLE):
            word = _word(dtype)
            for small in (1e-3, 3e-6):
                yield f"nearly constant {name} {word} {small:g}", _nearly(shape, small), dtype
                for many in (1, 6):
                    few = np.r_[np.ones(12 - many), np.full(many, small)]
                    yield f"{many} small {name} {word} {small:g}", _of_shape(shape, few), dtype
        yield f"nearly constant {name} float64 1e-12", _nearly(shape, 1e-12), DOUBLE
    yield "nearly constant 2 x 50257 float64 1e-9", _nearly((2, 50257), 1e-9), DOUBLE
    for shape in ((12, 3000), (8, 16384), (8, 50257)):
        yield f"rows of constants {shape[0]} x {shape[1]}", _constant_rows(shape), SINGLE
    for shape in ((8, 16384), (8, 50257)):
        few = np.r_[np.ones(7), 3e-6]
        yield f"1 small {shape[0]} x {shape[1]} float32", _of_shape(shape, few), SINGLE
    for shape in ((2, 300), (2, 3000), (2, 50257), (12, 3000)):
        yield f"one value {shape[0]} x {shape[1]} float64", _equal(shape), DOUBLE
    yield "signs 2 x 200000", _signs((2, 200_000), 0.7), SINGLE
    for shape in ((3, 16384), (3000, 3), (300, 5), (24, 512), (5, 2048)):
        yield f"rows of constants {shape[0]} x {shape[1]}", _constant_rows(shape), SINGLE
    for value in (0.1, 0.3, 0.7):
        yield f"1 x 36000 of {value}", _filled((1, 36000), value), SINGLE
        yield f"constant 2 x 50257 of {value}", _filled((2, 50257), value), SINGLE
        yield f"signs 2 x 50257 of {value}", _signs((2, 50257), value), SINGLE


def _of_shape(shape: tuple[int, int], s: Array) -> Callable[[np.random.Generator], Array]:
    return lambda rng: with_spectrum(shape, s, rng)


def _constant_rows(shape: tuple[int, int]) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.uniform(0.1, 1.0, (shape[0], 1)) * np.ones(shape)


def _equal(shape: tuple[int, int]) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.full(shape, 0.7)


def _nearly(shape: tuple[int, int], noise: float) -> Callable[[np.random.Generator], Array]:
    """A few whole multiples of one number, and noise that every other singular value is made of."""

    def make(rng: np.random.Generator) -> Array:
        across = rng.integers(1, 9, (1, shape[1]) if shape[1] < shape[0] else (shape[0], 1))
        return 0.3 * across * np.ones(shape) + noise * rng.standard_normal(shape)

    return make


def _filled(shape: tuple[int, int], value: float) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.full(shape, value)


def _signs(shape: tuple[int, int], value: float) -> Callable[[np.random.Generator], Array]:
    return lambda rng: value * np.sign(rng.standard_normal(shape))


def _hadamard(value: float) -> Callable[[np.random.Generator], Array]:
    return lambda rng: value * hadamard(32).astype(np.float64)


def _halves() -> Iterator[_Family]:
    for dtype in HALVES:
        word = _word(dtype)
        for shape, (rows, cols) in SHAPES.items():
            yield f"{shape} {word}", _normal((rows, cols)), dtype
            spread = np.geomspace(1.0, 1e-2, min(rows, cols))
            yield f"{shape} {word} conditioned", _spectrum(shape, spread), dtype
        yield f"{word} signs", _signs((64, 40), 0.3), dtype
        yield f"{word} rank 3", _integers("tall", 3), dtype
    yield "bfloat16 1e30", _normal((20, 12), 1e30), torch.bfloat16
    yield "bfloat16 1e-39", _normal((20, 12), 1e-39), torch.bfloat16
    yield "float16 1e-6", _normal((20, 12), 1e-6), torch.float16
