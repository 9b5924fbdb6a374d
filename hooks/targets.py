"""The parameters behind the captured layers: each is read once, whatever is cut out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from optgeom.hooks.layers import Layer


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One watched parameter, and the places of its layers in the recorder's order."""

    index: int
    parameter: nn.Parameter
    layers: tuple[int, ...]
    optimizer: int
    group: int


def targets_of(layers: Sequence[Layer]) -> tuple[Target, ...]:
    """The parameters of layers, each once, in the order of their first layers."""
    places: dict[int, list[int]] = {}
    for place, layer in enumerate(layers):
        places.setdefault(id(layer.parameter), []).append(place)
    return tuple(
        Target(
            index,
            layers[own[0]].parameter,
            tuple(own),
            layers[own[0]].optimizer,
            layers[own[0]].group,
        )
        for index, own in enumerate(places.values())
    )
