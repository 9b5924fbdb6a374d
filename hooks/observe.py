"""From a finished reading to whole matrices, on the rank that owns them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.floor import difference_floor
from optgeom.hooks.layers import Layer, as_float
from optgeom.hooks.reading import Slot
from optgeom.hooks.sharding import Ranks, local
from optgeom.hooks.state import momentum_of, second_moment_steps_of

STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")
"""The stages that can be asked for, in the order of a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What a parameter's group said when the step began."""

    lr: float
    weight_decay: float | None
    status: str

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Entry:
        """Read a group's settings; an absent or zero rate divides by 1 and says so."""
        lr, decay = group.get("lr"), group.get("weight_decay")
        weight_decay = None if decay is None else float(decay)
        if lr is None:
            return cls(1.0, weight_decay, "lr_absent")
        return cls(float(lr) or 1.0, weight_decay, "ok" if float(lr) else "lr_zero")


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
    lost: tuple[float | None, float | None]
    operand_dtype: torch.dtype | None
    noise_floor: float
    second_moment_steps: int | None


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
) -> Observed | None:
    """Put one layer's matrices together; collective where the layer is sharded.

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

    Returns:
        The matrices, rows = neurons, float32 or float64; None on ranks that do not own the layer.
    """
    after = local(layer.parameter.detach())
    update = slot.fold.update(after, entry.lr)
    if update is None:
        update = torch.zeros_like(as_float(after))
    parts: dict[str, Tensor] = {"update": update, "weight": slot.fold.before(after)}
    if slot.gradient is not None:
        parts["gradient"] = as_float(slot.gradient)
    momentum = momentum_of(optimizer, layer.parameter) if "momentum" in stages else None
    if momentum is not None:
        parts["momentum"] = as_float(local(momentum))
    whole = {name: ranks.gather(index, part, layer.parameter) for name, part in parts.items()}
    if ranks.owner(index) != ranks.rank:
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
        lost=slot.fold.lost(),
        operand_dtype=slot.fold.operand_dtype,
        noise_floor=floor,
        second_moment_steps=second_moment_steps_of(optimizer, layer.parameter),
    )


def held_bytes(observed: Observed) -> int:
    """How much memory a layer's matrices keep alive while they wait to be measured."""
    count = math.prod(observed.layer.shape) * observed.weight.element_size()
    return count * (len(observed.stages) + 1)
