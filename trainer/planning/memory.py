"""Bytes on the rank that holds most, by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.hooks.reading import IN_FLIGHT
from optgeom.hooks.worker import WAITING_BYTES
from optgeom.optim.dealing import Bucket
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.planning.dealing import capture_owners, rows_of_ranks, share
from optgeom.trainer.planning.shapes import Shapes, numel
from optgeom.trainer.planning.wire import DOUBLE, FLOAT, numbers_told, unit_shares

COPIES = 4
"""Of the matrices that a rank orthogonalizes at once: as they came, as they are iterated (two), as
they go home."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a rank.

    Attributes:
        weights: In float32, and as many are gradients.
        state: Of the optimizer.
        gathered: Two blocks, whole, as `Sizes.bytes_per_rank` counts them.
        root: Embedding, head and last norm, whole from the forward to the end of the backward pass.
        unreduced: Gradients of the largest unit, and their float32 copy, before they are scattered.
        accumulated: Gradients that every rank keeps whole between the portions of a step.
        activations: Kept for the backward pass, logits included; an estimate.
        exchange: Matrices on their way through the optimizer's step; an estimate.
        operands: That a captured step holds in one process; of several ranks' rows more.
        told: Numbers of norms that arrive at the rank that owns most of them, at most.
        queue: Matrices that wait for their spectrum, at most.
    """

    weights: int
    state: int
    gathered: int
    root: int
    unreduced: int
    accumulated: int
    activations: int
    exchange: int
    operands: int
    told: int
    queue: int

    @property
    def training(self) -> int:
        """Without capture."""
        held = 2 * self.weights + self.state + self.gathered + self.root + self.accumulated
        return held + self.activations + max(self.unreduced, self.exchange)

    @property
    def capture(self) -> int:
        """What capture adds."""
        return self.operands + self.told + self.queue

    @property
    def total(self) -> int:
        """Of a watched run."""
        return self.training + self.capture


def memory_of(
    shapes: Shapes, config: TrainConfig, buckets: Sequence[Sequence[Bucket]], world: int
) -> Memory:
    """Add up what a rank holds; ranks with fewer rows hold as much, in padding."""
    number = 2 if config.precision == "bfloat16" else FLOAT
    root, *blocks = (world * one for one in unit_shares(shapes, world))
    is_sharded = world > 1 or config.precision == "bfloat16"
    return Memory(
        weights=FLOAT * sum(share(one.shape, world) for one in shapes.weights),
        state=FLOAT * sum(_state(shapes, world)),
        gathered=2 * number * max(blocks) if is_sharded else 0,
        root=number * root if is_sharded else 0,
        unreduced=(number + FLOAT) * max(root, *blocks) if is_sharded else 0,
        # only the last portion's backward pass sends gradients to their owners
        accumulated=FLOAT * sum(numel(one.shape) for one in shapes.weights)
        if is_sharded and config.accumulate > 1
        else 0,
        activations=_activations(config, world),
        exchange=_exchange(shapes, buckets),
        operands=IN_FLIGHT,
        told=_told(shapes, world),
        queue=min(max(WAITING_BYTES, _largest(shapes)), _waiting(shapes, world)),
    )


def _state(shapes: Shapes, world: int) -> list[int]:
    return [
        share(shape, world) if one.is_cut_like(shape) else numel(shape)
        for one in shapes.weights
        for shape in one.state
    ]


def _exchange(shapes: Shapes, buckets: Sequence[Sequence[Bucket]]) -> int:
    """The two largest piles that are under way on one rank at once."""
    piles = [0, 0]
    for rule, some in zip(shapes.rules, buckets, strict=True):
        for bucket in some:
            rows, cols = bucket.layout.shape
            most = max(np.bincount([shard for _, shard in bucket.owners]))
            number = max(rule.bytes, 2 if rule.low else FLOAT)
            piles.append(int(most) * number * (COPIES * rows * cols + 2 * min(rows, cols) ** 2))
    return sum(sorted(piles)[-2:])


def _told(shapes: Shapes, world: int) -> int:
    """What all ranks tell the owner of most: it grows with ranks times columns."""
    if world == 1:
        return 0
    found = np.zeros(world, dtype=np.int64)
    for shape, owner in zip(shapes.layers, capture_owners(shapes.layers, world), strict=True):
        rows = rows_of_ranks(shape[0], world)
        found[owner] += DOUBLE * numbers_told(shapes, shape, rows).sum()
    return int(found.max())


def _waiting(shapes: Shapes, world: int) -> int:
    found = np.zeros(world, dtype=np.int64)
    for shape, owner in zip(shapes.layers, capture_owners(shapes.layers, world), strict=True):
        found[owner] += FLOAT * shapes.spectral * numel(shape)
    return int(found.max())


def _largest(shapes: Shapes) -> int:
    """One job is let in, however large."""
    return FLOAT * shapes.spectral * max(map(numel, shapes.layers), default=0)


def _activations(config: TrainConfig, world: int) -> int:
    """An estimate: what each product and norm keeps of its inputs, attention's matrix apart.

    With `recompute` a block's input, and all of one block. Logits: as they are, in float32, and the
    gradient of both.
    """
    model, number = config.model, 2 if config.precision == "bfloat16" else FLOAT
    tokens = config.data.batch * config.data.sequence / (world * config.accumulate)
    keys = 2 * model.width * model.key_value_heads / model.heads
    hidden = model.neurons * (2 if model.mlp == "relu2" else 4)
    block = number * (6 * model.width + 2 * keys + hidden) + FLOAT * (3 * model.width + keys)
    kept = block * model.blocks
    if config.recompute:
        kept = number * model.width * model.blocks + block
    return round(tokens * (kept + (2 * number + 2 * FLOAT) * model.vocab_size))
