"""Whose memory a tensor is: the key by which a write is matched to a watched parameter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Address = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""(storage pointer, offset, shape, stride). A data pointer alone would also match `p[:4]`."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes that a tensor may touch: storage pointer, first byte, one past the last."""

    storage: int
    start: int
    stop: int

    def overlaps(self, other: Span) -> bool:
        """Whether two spans share a byte."""
        return self.storage == other.storage and self.start < other.stop and other.start < self.stop


PLAIN = (Tensor, nn.Parameter)
"""Types whose own storage holds their data."""


def unwrap(tensor: object) -> Tensor | None:
    """The plain strided tensor that holds the data; None for what has no storage to compare."""
    if isinstance(tensor, DTensor):
        tensor = tensor._local_tensor
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        return None
    if (
        type(tensor) not in PLAIN
        and type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    ):
        return None  # a wrapper subclass: its storage is not where its data is
    return tensor


def same_layout(target: Tensor, operand: object) -> bool:
    """Whether an operand's local part stands for the same entries as the target's local part.

    Args:
        target: what is written to.
        operand: anything; what is no sharded tensor is whole on every rank.
    """
    if not isinstance(operand, DTensor):
        # a whole matrix and a shard of the weights have no entries in common
        return not (isinstance(target, DTensor) and isinstance(operand, Tensor) and operand.ndim)
    if operand.numel() == 1:
        return all(placement.is_replicate() for placement in operand.placements)
    return isinstance(target, DTensor) and operand.placements == target.placements


def address_of(tensor: Tensor) -> Address:
    """The exact place and geometry of a plain tensor."""
    return (
        tensor.untyped_storage().data_ptr(),
        int(tensor.storage_offset()),
        tuple(tensor.shape),
        tuple(tensor.stride()),
    )


def span_of(tensor: Tensor) -> Span:
    """The bytes of its storage that a plain tensor may touch."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    stop = start + (reach + 1) * tensor.element_size() if tensor.numel() else start
    return Span(tensor.untyped_storage().data_ptr(), start, stop)
