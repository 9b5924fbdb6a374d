"""Gradients whose singular vectors are known, and survive the rounding of bfloat16.

Newton-Schulz amplifies whatever rounding adds to a small singular direction. Here the directions
are rows of Hadamard matrices on disjoint sets of rows, so that every product in the iteration is
exact but for a factor, and directions do not leak into each other in any precision.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.linalg import hadamard

from optgeom.hooks.auditing.subject import Matrix

SIDE = 64
SHORT = 16
TALL, WIDE, SQUARE = (SIDE, SHORT), (SHORT, SIDE), (SIDE, SIDE)
"""Sides are powers of four: their roots, which make the singular vectors unit, are exact."""


@cache
def signs(side: int) -> Matrix:
    """(side, side) of -1 and 1, rows orthogonal to each other."""
    found: Matrix = hadamard(side).astype(np.float64)
    return found


def narrow(values: Matrix) -> Matrix:
    """The nearest numbers that bfloat16 has."""
    found: Matrix = torch.from_numpy(np.array(values)).bfloat16().double().numpy()
    return found


def scaled(singular_values: Matrix) -> Matrix:
    """A matrix of one direction per row.

    Args:
        singular_values: (m,), of any sign, m at most SIDE.

    Returns:
        (m, SIDE): row d is a Hadamard row of norm |singular_values[d]|.
    """
    rows = signs(SIDE)[: len(singular_values)] / np.sqrt(SIDE)
    found: Matrix = narrow(singular_values)[:, None] * rows
    return found


def responses(update: Matrix) -> Matrix:
    """What an update holds of the directions of `scaled`, (m,), signed."""
    directions = signs(SIDE)[: len(update)] / np.sqrt(SIDE)
    found: Matrix = np.einsum("ij,ij->i", update, directions)
    return found


def grouped(profile: Matrix, length: int) -> Matrix:
    """A matrix of low rank whose rows differ in norm and whose columns do not.

    Args:
        profile: (groups, rows of each); groups at most `length`.
        length: the number of columns, a power of four.

    Returns:
        (groups * rows, length): the rows of group g are multiples of one Hadamard row. The singular
        values are the norms of the profiles, and the polar factor's rows are profile / norm.
    """
    directions = signs(length)[: len(profile)] / np.sqrt(length)
    return narrow((profile[:, :, None] * directions[:, None, :]).reshape(-1, length))


def uneven(rows: int, cols: int, seed: int) -> Matrix:
    """A matrix of full rank whose rows and columns differ in norm by factors up to ten."""
    generator = np.random.default_rng(seed)
    matrix: Matrix = generator.standard_normal((rows, cols))
    matrix *= 2.0 ** generator.uniform(-1.7, 1.7, (rows, 1))
    matrix *= 2.0 ** generator.uniform(-1.0, 1.0, (1, cols))
    return matrix


def uneven_groups(rows: int, cols: int, seed: int) -> Matrix:
    """`grouped`, of a quarter of the full rank or so, with groups of unequal weight."""
    generator = np.random.default_rng(seed)
    size = 8 if rows == SIDE else 4
    profile = 2.0 ** generator.integers(-2, 3, (rows // size, size)).astype(np.float64)
    return grouped(profile * 2.0 ** generator.integers(-1, 2, (rows // size, 1)), cols)
