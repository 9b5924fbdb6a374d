"""From a finished reading to a parameter's matrices, or to this rank's rows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optgeom.geometry.floor import difference_floor
from optgeom.hooks.layers import Layer, as_float
from optgeom.hooks.sharding import local
from optgeom.hooks.slot import Slot
from optgeom.hooks.state import momentum_of, second_moment_of, second_moment_steps_of

STAGES = (
    "gradient",
    "momentum",
    "second_moment",
    "ns_input",
    "orthogonalized",
    "update",
    "weight",
    "applied",
)
"""The stages that can be asked for, in the order of a step."""

TAPPED = ("ns_input", "orthogonalized", "momentum", "update")
"""The stages that an optimizer may hand over; the others are read without its help."""

BEFORE = frozenset({"weight", "applied"})
"""The stages that need the weights as they were before the step."""

PARTS = (
    "update",
    "after",
    "weight",
    "applied",
    "gradient",
    "momentum",
    "second_moment",
    "ns_input",
    "orthogonalized",
)
"""What a rank holds its part of, and what others may have of it, where it is sharded."""


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


@dataclass(slots=True, eq=False)
class Facts:
    """What a row says beside its metrics; one for all pieces of a parameter at a step.

    The samples have the last word on `status`, `decay`, `decay_form` and the lost fractions: these
    four are filled in once they have been compared.
    """

    step: int
    entry: Entry
    status: str
    source: str
    decay: float
    decay_form: str
    operand_dtype: torch.dtype | None
    second_moment_steps: int | None
    tapped: frozenset[str]
    lost_update_fraction: float | None = None
    lost_decay_fraction: float | None = None

    def count(self, counts: Sequence[float]) -> None:
        """Fill in what rounding held back: lost and all of the update, and of the decay."""
        lost, asked, stayed, decaying = counts
        self.lost_update_fraction = float(lost / asked) if asked else None
        self.lost_decay_fraction = float(stayed / decaying) if decaying else None


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """One layer at one captured step, whole: what the records are made from.

    Attributes:
        layer: which it is.
        index: its place in the recorder's order.
        facts: of its parameter.
        stages: the matrices that are recorded, rows = neurons, float32 or float64.
        after: the weights after the step, live; None once detached from the step.
        weight: the weights before it, where they were kept or are still there.
        gradient: the gradient, live unless the step overwrote it.
        noise_floor: of a difference, in units of the update.
        weight_norm: of the weights before the step, where the row compares the update with no
            other matrix; None where it does.
        stored: its raw matrices are written elsewhere.
    """

    layer: Layer
    index: int
    facts: Facts
    stages: Mapping[str, Tensor]
    after: Tensor | None = None
    weight: Tensor | None = None
    gradient: Tensor | None = None
    noise_floor: float = 0.0
    weight_norm: float | Tensor | None = None
    stored: bool = False


def present(slot: Slot, optimizer: Any, stages: Sequence[str]) -> list[str]:
    """Which of `PARTS` this rank has something of, without computing any.

    Args:
        slot: after the step.
        optimizer: that made it.
        stages: that are recorded.
    """
    found = ["update", "after"]
    if slot.handed is not None or slot.kept is not None:
        found.append("weight")
    if "applied" in stages and slot.kept is not None:
        found.append("applied")
    if slot.gradient is not None:
        found.append("gradient")
    if "momentum" in stages and momentum_of(optimizer, slot.parameter) is not None:
        found.append("momentum")
    if "second_moment" in stages and second_moment_of(optimizer, slot.parameter) is not None:
        found.append("second_moment")
    return found + [name for name in slot.taps if name not in found]


def local_parts(
    slot: Slot, entry: Entry, optimizer: Any, names: Sequence[str], out: Tensor | None = None
) -> dict[str, Tensor]:
    """This rank's part of each matrix, in the precision of the fold; finishes the slot.

    Args:
        slot: after the step, or while its update is handed over.
        entry: its group's settings at step entry.
        optimizer: that made the step.
        names: as `present` gave them.
        out: flat memory that the update may be put into, if it need not outlive the call's use.
    """
    after = slot.now
    parts: dict[str, Tensor] = {"after": after}
    if "weight" in names:
        # an update is handed over before it is applied
        parts["weight"] = after if slot.kept is None else slot.kept
    if "applied" in names and slot.kept is not None:
        parts["applied"] = as_float(after) - as_float(slot.kept)
    if "gradient" in names and slot.gradient is not None:
        gradient = as_float(slot.gradient)
        parts["gradient"] = gradient / entry.loss_scale if entry.loss_scale != 1.0 else gradient
    if "momentum" in names and (momentum := momentum_of(optimizer, slot.parameter)) is not None:
        parts["momentum"] = as_float(local(momentum))
    if "second_moment" in names:
        second = second_moment_of(optimizer, slot.parameter)
        if second is not None:
            parts["second_moment"] = as_float(local(second))
    parts |= slot.taps
    update = _update(slot, after, entry, out)
    parts["update"] = torch.zeros_like(as_float(after)) if update is None else update
    return parts


def _update(slot: Slot, after: Tensor, entry: Entry, out: Tensor | None) -> Tensor | None:
    if slot.handed is not None:  # what moves the weights, once multiplied with the rate
        return None if entry.status == "lr_zero" else slot.handed
    if slot.formula is not None:
        return slot.formula.update(slot.gradient)
    return slot.fold.update(after, entry.lr, out)


def facts_of(slot: Slot, entry: Entry, optimizer: Any, step: int, decay: float) -> Facts:
    """What is known of a slot before its samples are compared.

    Args:
        slot: after the step, or while its update is handed over.
        entry: its group's settings at step entry.
        optimizer: that made the step.
        step: the recorder's.
        decay: what was observed, or for an update that is handed over what is expected.
    """
    return Facts(
        step=step,
        entry=entry,
        status=entry.status,
        source=slot.source,
        decay=decay,
        decay_form=slot.decay_form,
        operand_dtype=slot.fold.operand_dtype,
        second_moment_steps=second_moment_steps_of(optimizer, slot.parameter),
        tapped=frozenset(slot.taps) | ({"update"} if slot.by_tap else frozenset()),
    )


def expected_decay(slot: Slot, entry: Entry) -> float:
    """What a slot's weights were scaled down by, as far as is known without the samples."""
    if slot.by_tap:
        decay = 0.0 if entry.weight_decay is None else entry.lr * entry.weight_decay
        return 1.0 - (1.0 - decay)  # as the weights were multiplied with it, last bits included
    return slot.fold.decay if slot.formula is None else slot.formula.decay


def pieces(
    wholes: Mapping[str, Tensor],
    layers: Sequence[tuple[int, Layer]],
    facts: Facts,
    stages: Sequence[str],
    weight_norms: Mapping[int, float | Tensor],
) -> list[Observed]:
    """Cut a parameter's whole matrices into its layers'.

    Args:
        wholes: by name of part, of the parameter's global shape; the second moment may be a vector.
        layers: that are captured, with their places.
        facts: of the parameter.
        stages: that are recorded.
        weight_norms: of those layers, by place, that are compared with no other matrix.
    """
    found = []
    for index, layer in layers:
        matrices = {
            name: layer.matrix(whole) for name, whole in wholes.items() if name != "second_moment"
        }
        second = wholes.get("second_moment")
        if second is not None and (moments := _per_neuron(second, layer)) is not None:
            matrices["second_moment"] = moments
        floor = 0.0
        if facts.source == "difference":
            floor = difference_floor(matrices["after"], facts.entry.lr, layer.shape)
        found.append(
            Observed(
                layer=layer,
                index=index,
                facts=facts,
                stages={name: matrices[name] for name in stages if name in matrices},
                after=matrices["after"],
                weight=matrices.get("weight"),
                gradient=matrices.get("gradient"),
                noise_floor=floor,
                weight_norm=weight_norms.get(index),
            )
        )
    return found


def _per_neuron(second: Tensor, layer: Layer) -> Tensor | None:
    """A second moment as a matrix of one row per neuron; None where it cannot be cut."""
    if second.shape == layer.parameter.shape:
        return layer.matrix(second)
    # of a turned matrix, or where the larger axis is the columns, it belongs to the inputs
    is_its = layer.split is None and second.numel() == layer.shape[0]
    return second.reshape(-1, 1) if is_its else None


def held_bytes(observed: Observed) -> int:
    """How much memory a layer's matrices keep alive while they wait to be measured."""
    return sum(matrix.nbytes for matrix in observed.stages.values())
