"""Which layers an optimizer takes as one matrix: the pieces of a fused parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optgeom.traces.info import LayerInfo


@dataclass(frozen=True, slots=True)
class Whole:
    """One matrix as an optimizer sees it.

    Pieces may be interleaved in the parameter. Put one after another they are the matrix with its
    rows (or columns) in another order, and every rule gives the same there, in that order.

    Attributes:
        layers: Its pieces; one where it is not cut, or not all pieces are captured.
        axis: 0 where the pieces are rows of it, 1 where they are columns.
        is_part: Whether it is a piece of a matrix whose other pieces are not captured.
    """

    layers: tuple[LayerInfo, ...]
    axis: int = 0
    is_part: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        rows, cols = self.layers[0].shape
        sizes = sum(layer.shape[self.axis] for layer in self.layers)
        return (sizes, cols) if self.axis == 0 else (rows, sizes)

    def joined(self, matrices: Sequence[Tensor]) -> Tensor:
        """The matrix, of those of its pieces."""
        return matrices[0] if len(matrices) == 1 else torch.cat(list(matrices), dim=self.axis)

    def cut(self, matrix: Tensor) -> list[Tensor]:
        """The pieces of a matrix of its shape."""
        sizes = [layer.shape[self.axis] for layer in self.layers]
        return [one.contiguous() for one in torch.split(matrix, sizes, dim=self.axis)]


def wholes(layers: Sequence[LayerInfo]) -> list[Whole]:
    """The matrices that layers are, or are pieces of, in the model's order.

    Args:
        layers: All of a run.
    """
    groups: dict[tuple[str, str], list[LayerInfo]] = {}
    for layer in layers:
        groups.setdefault((layer.parameter or layer.name, _expert(layer)), []).append(layer)
    found: list[Whole] = []
    for group in groups.values():
        whole = _whole(group)
        found += [whole] if whole is not None else apart(group)
    return found


def apart(layers: Sequence[LayerInfo]) -> list[Whole]:
    """Each layer by itself."""
    return [
        Whole((one,), is_part=one.parameter is not None and one.split != _expert(one))
        for one in layers
    ]


def _whole(pieces: list[LayerInfo]) -> Whole | None:
    """The matrix that these pieces cover; None where they are not all of it."""
    first = pieces[0]
    if first.parameter is None or first.split == _expert(first):
        return Whole((first,)) if len(pieces) == 1 else None
    shape = _matrix_shape(first)
    for axis in (0, 1):
        found = Whole(tuple(pieces), axis)
        across = {piece.shape[1 - axis] for piece in pieces}
        if len(across) == 1 and found.shape == shape:
            return found
    return None


def _matrix_shape(piece: LayerInfo) -> tuple[int, int] | None:
    """The shape, neurons first, of the matrix that a piece is of; None where it is not known."""
    stored = piece.stored[1:] if _expert(piece) else piece.stored
    if len(stored) < 2:
        return None
    rows = stored[1] if piece.transposed else stored[0]
    return rows, math.prod(stored) // rows


def _expert(layer: LayerInfo) -> str:
    """Which matrix of a stack a layer is, or is of; "" where there is no stack."""
    label = (layer.split or "").partition(",")[0]
    return label if label.isdigit() and len(layer.stored) > 2 else ""
