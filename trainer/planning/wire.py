"""Bytes that leave a rank in a step, counted from shapes; receiving is as much.

An all-to-all is what a rank sends to others; a ring's all-gather or reduce-scatter sends W - 1
shards, its all-reduce 2 (W - 1) / W of the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optgeom.geometry.context import Context
from optgeom.geometry.shards import shard_size
from optgeom.hooks.gathering import COUNTS
from optgeom.hooks.observe import PARTS
from optgeom.optim.dealing import Bucket
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.planning.dealing import Counts, capture_owners, rows_of_ranks, share
from optgeom.trainer.planning.shapes import Shapes

FLOAT, DOUBLE = 4, 8
TOLD = 8
"""Numbers that a rank tells at a captured step beside flags: the recorder's three, five costs."""


def unit_shares(shapes: Shapes, world: int) -> list[int]:
    """Numbers of each unit of fully_shard on a rank, padding included: the root's first."""
    return [sum(share(one.shape, world) for one in unit) for unit in shapes.units]


def fsdp_gathers(shapes: Shapes, config: TrainConfig, world: int) -> int:
    """All-gathers of a step: blocks for the forward and the backward pass, the root once."""
    number = 2 if config.precision == "bfloat16" else FLOAT
    root, *blocks = unit_shares(shapes, world)
    return config.accumulate * number * (world - 1) * (root + 2 * sum(blocks))


def fsdp_scatters(shapes: Shapes, world: int) -> int:
    """Reduce-scatters of a step, of float32 gradients."""
    return FLOAT * (world - 1) * sum(unit_shares(shapes, world))


def exchange_of_ranks(shapes: Shapes, buckets: Sequence[Sequence[Bucket]], world: int) -> Counts:
    """What each rank sends in an optimizer's step: rows out, updates home, sums; (world,)."""
    sent = np.zeros(world, dtype=np.int64)
    if world == 1:
        return sent
    sums = {id(one.parameter): one.sums for one in shapes.weights}
    for rule, some in zip(shapes.rules, buckets, strict=True):
        for bucket in some:
            rows, cols = bucket.layout.shape
            here = rows_of_ranks(rows, world)
            parcel = rule.bytes * (here * cols + 1)  # and whether anybody has a gradient
            sent += len(bucket.owners) * parcel
            owned = np.bincount([shard for _, shard in bucket.owners], minlength=world)
            sent += owned * (parcel.sum() - 2 * parcel)
            sent += _all_reduced(FLOAT * sum(sums[id(p)] for p in bucket.params), world)
    return sent


def _all_reduced(nbytes: int, world: int) -> int:
    return 2 * nbytes * (world - 1) // world


def numbers_told(shapes: Shapes, shape: tuple[int, int], rows: Counts) -> Counts:
    """What ranks tell a matrix's owner at a captured step, of all stages, beside the matrix."""
    update = shard_size(0, shape[1], Context(stage="update")) if shapes.update else 0
    other = shard_size(0, shape[1], Context(stage="gradient"))
    return COUNTS + update + (shapes.stages - shapes.update) * other + shapes.stages * rows


def capture_of_ranks(shapes: Shapes, world: int) -> tuple[Counts, Counts]:
    """What each rank sends at a captured step of all layers, (world,) each: norms, and spectra."""
    norms, spectra = np.zeros((2, world), dtype=np.int64)
    if world == 1:
        return norms, spectra
    for shape, owner in zip(shapes.layers, capture_owners(shapes.layers, world), strict=True):
        rows = rows_of_ranks(shape[0], world)
        told = DOUBLE * numbers_told(shapes, shape, rows)
        whole = FLOAT * shapes.spectral * rows * shape[1]
        told[owner] = whole[owner] = 0
        norms += told
        spectra += whole
    # flags and costs, whose samples were right, and what rounding held back
    agreed = TOLD + len(shapes.layers) * (len(PARTS) - 1), 1 + len(shapes.layers)
    counts = 4 * len(shapes.layers)
    norms += sum(_all_reduced(DOUBLE * numbers, world) for numbers in (*agreed, counts))
    return norms, spectra
