"""From a finished reading to whole matrices, on the rank that owns them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.floor import difference_floor
from optgeom.hooks.guard import Guard
from optgeom.hooks.layers import Layer, as_float
from optgeom.hooks.sharding import Ranks, local
from optgeom.hooks.slot import Slot
from optgeom.hooks.state import momentum_of, second_moment_steps_of

STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")
"""The stages that can be asked for, in the order of a step."""

TAPPED = ("ns_input", "orthogonalized", "momentum")
"""The stages that an optimizer may hand over; the others are read without its help."""

_PARTS = ("update", "weight", "gradient", "momentum")


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What a parameter's group said when the step began.

    Attributes:
        lr: the divisor of the update.
        weight_decay: the setting, not what happened.
        status: ok, lr_zero or lr_absent.
        loss_scale: what the gradients are still multiplied with.
    """

    lr: float
    weight_decay: float | None
    status: str
    loss_scale: float = 1.0

    @classmethod
    def of(cls, group: Mapping[str, Any], loss_scale: float = 1.0) -> Entry:
        """Read a group's settings; an absent or zero rate divides by 1 and says so."""
        lr, decay = _number(group.get("lr")), _number(group.get("weight_decay"))
        if lr is None:
            return cls(1.0, decay, "lr_absent", loss_scale)
        return cls(lr or 1.0, decay, "ok" if lr else "lr_zero", loss_scale)


def _number(setting: Any) -> float | None:
    if isinstance(setting, (int, float)) or (isinstance(setting, Tensor) and setting.numel() == 1):
        return float(setting)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """One layer at one captured step, whole: what the records are made from."""

    layer: Layer
    index: int
    step: int
    stages: Mapping[str, Tensor]
    weight: Tensor
    gradient: Tensor | None
    entry: Entry
    status: str
    source: str
    decay: float
    decay_form: str
    lost_update_fraction: float | None
    lost_decay_fraction: float | None
    operand_dtype: torch.dtype | None
    noise_floor: float
    second_moment_steps: int | None
    tapped: frozenset[str]


def observe(
    slot: Slot,
    layer: Layer,
    index: int,
    *,
    step: int,
    optimizer: Any,
    entry: Entry,
    stages: tuple[str, ...],
    verified: bool,
    ranks: Ranks,
    guard: Guard,
) -> Observed | None:
    """Put one layer's matrices together; collective where the layer is sharded.

    A rank whose part fails goes on to take part, with zeros, so that the others need not wait.

    Args:
        slot: what was read of it on this rank.
        layer: which it is.
        index: its place in the recorder's order.
        step: the recorder's step.
        optimizer: that made the step.
        entry: its group's settings at step entry.
        stages: that are recorded.
        verified: whether every rank's samples agree with the reading.
        ranks: who takes part.
        guard: is told of this rank's failure.

    Returns:
        The matrices, rows = neurons, float32 or float64; None on ranks that do not own the layer,
        and where a rank failed.

    Raises:
        RuntimeError: a collective failed; the ranks are no longer connected.
    """
    after = local(layer.parameter.detach())
    parts: Mapping[str, Tensor] = {}
    counts = torch.zeros(4, dtype=torch.float64, device=after.device)
    with guard.harmless():
        parts = _local_parts(slot, after, entry, momentum_of(optimizer, layer.parameter), stages)
        counts = slot.fold.counts(after, slot.gradient)
    here = torch.tensor([float(name in parts) for name in _PARTS], device=counts.device)
    totals = ranks.total(torch.cat([counts, here.double()]), layer.parameter).tolist()
    (update_lost, update_all, decay_lost, decay_all), present = totals[:4], totals[4:]
    whole: dict[str, Tensor] = {}
    for name, count in zip(_PARTS, present, strict=True):
        if count:
            part = parts[name] if name in parts else torch.zeros_like(as_float(after))
            whole[name] = ranks.gather(index, part, layer.parameter)
    if ranks.owner(index) != ranks.rank or present[0] < ranks.holders(layer.parameter):
        return None
    whole.update(slot.taps)  # an optimizer hands over whole matrices
    matrices = {name: layer.matrix(tensor) for name, tensor in whole.items()}
    floor = 0.0
    if slot.source == "difference":
        floor = difference_floor(matrices["weight"].to(after.dtype), entry.lr, layer.shape)
    return Observed(
        layer=layer,
        index=index,
        step=step,
        stages={name: matrices[name] for name in stages if name in matrices},
        weight=matrices["weight"],
        gradient=matrices.get("gradient"),
        entry=entry,
        status=entry.status if verified else "unverified",
        source=slot.source,
        decay=slot.fold.decay,
        decay_form=slot.fold.decay_form,
        lost_update_fraction=update_lost / update_all if update_all else None,
        lost_decay_fraction=decay_lost / decay_all if decay_all else None,
        operand_dtype=slot.fold.operand_dtype,
        noise_floor=floor,
        second_moment_steps=second_moment_steps_of(optimizer, layer.parameter),
        tapped=frozenset(slot.taps),
    )


def _local_parts(
    slot: Slot, after: Tensor, entry: Entry, momentum: Tensor | None, stages: tuple[str, ...]
) -> dict[str, Tensor]:
    """This rank's part of each matrix, in the precision of the fold."""
    update = slot.fold.update(after, entry.lr)
    parts = {
        "update": torch.zeros_like(as_float(after)) if update is None else update,
        "weight": slot.before(after),
    }
    if slot.gradient is not None:
        gradient = as_float(slot.gradient)
        parts["gradient"] = gradient / entry.loss_scale if entry.loss_scale != 1.0 else gradient
    if momentum is not None and "momentum" in stages:
        parts["momentum"] = as_float(local(momentum))
    return parts


def held_bytes(observed: Observed) -> int:
    """How much memory a layer's matrices keep alive while they wait to be measured."""
    count = math.prod(observed.layer.shape) * observed.weight.element_size()
    return count * (len(observed.stages) + 1)
