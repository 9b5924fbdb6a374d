"""Which rows of a matrix lie on which rank, and what of them is sent where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from optgeom.hooks.layers import Layer
from optgeom.hooks.slot import Slot
from optgeom.hooks.targets import Target

WHOLE = -1
"""The place of what is no layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A matrix of a target, of which every rank has some rows.

    Attributes:
        name: the stage, or what else is gathered.
        shape: (m, n); of a whole parameter any shape.
        rows: where its rows lie among the target's; None: the owner has it all.
        index: of the layer; `WHOLE` for all of a parameter.
    """

    name: str
    shape: tuple[int, ...]
    rows: range | None
    index: int = WHOLE

    @property
    def key(self) -> tuple[str, int]:
        """What it is called among a target's."""
        return self.name, self.index

    @property
    def cols(self) -> int:
        """Numbers of a row."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A target whose rows are spread: what is read of it, and what is sent to its owner.

    Attributes:
        target: the parameter.
        slot: of this rank; None where its capture has failed.
        names: what some rank has a part of, as of `observe.PARTS`.
        held: which of its rows each rank has.
        owner: the rank that owns its rows of the trace.
        norms: stages of layers, of which numbers are sent.
        sent: what is sent whole.
        raw: stages of layers, of which every rank writes its rows.
    """

    target: Target
    slot: Slot | None
    names: tuple[str, ...]
    held: tuple[range, ...]
    owner: int
    norms: tuple[Part, ...]
    sent: tuple[Part, ...]
    raw: tuple[Part, ...]

    def on(self, part: Part, rank: int) -> range:
        """Which rows of a part a rank has."""
        if part.rows is None:
            return range(part.shape[0] if rank == self.owner else 0)
        held = self.held[rank]
        start = max(part.rows.start, held.start)
        stop = max(start, min(part.rows.stop, held.stop))
        return range(start - part.rows.start, stop - part.rows.start)

    def rows(
        self, part: Part, rank: int, parts: Mapping[str, Tensor], name: str | None = None
    ) -> Tensor:
        """Those rows, of what that rank has of the target.

        Args:
            part: whose rows.
            rank: that has them.
            parts: what it has, by name; each of the target's shape but for the first axis.
            name: of the one that is wanted; None: the part's own.

        Returns:
            (r, n), sharing memory; zeros where the rank lacks what others have.
        """
        wanted, found = self.on(part, rank), parts.get(name or part.name)
        if found is None:
            return parts["after"].new_zeros(len(wanted), part.cols)
        if part.rows is None:
            return found.reshape(part.shape)[: len(wanted)]
        held = self.held[rank]
        if not len(wanted):
            return found.new_zeros(0, part.cols)
        start = part.rows.start + wanted.start - held.start
        return found.reshape(len(held), -1)[start : start + len(wanted)]


def rows_of(layer: Layer) -> range | None:
    """Where a layer's rows lie among its parameter's, one after another; None if they do not.

    The rows of a stack are those of all its matrices.
    """
    piece, block = layer.piece, layer.piece.block
    if piece.stored.transposed or piece.stored.groups > 1:
        return None
    if block is not None and (block.columns or block.repeats > 1):
        return None
    start = 0 if block is None else block.start
    if piece.expert is not None:
        start += piece.expert * math.prod(layer.parameter.shape[1:]) // layer.shape[1]
    return range(start, start + layer.shape[0])
