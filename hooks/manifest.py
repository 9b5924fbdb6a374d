"""What run.json says of a watched run: versions, optimizers with their settings, layers."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

import optgeom
from optgeom.geometry.catalogue import columns
from optgeom.hooks.layers import Layer
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo


def names_of(optimizers: Sequence[Any]) -> tuple[str, ...]:
    """One name per optimizer: its class, numbered where a class occurs twice.

    >>> names_of([1, 2, "x"])
    ('int', 'int-1', 'str')
    """
    names: list[str] = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        taken = sum(1 for other in names if other.partition("-")[0] == name)
        names.append(f"{name}-{taken}" if taken else name)
    return tuple(names)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's hyper-parameters as JSON values; parameters, their names and matrices left out."""
    plain: dict[str, Any] = {}
    for key, value in group.items():
        if key in ("params", "param_names"):
            continue
        if isinstance(value, Tensor):
            if value.numel() == 1:
                plain[key] = float(value)
        elif value is None or isinstance(value, (bool, int, float, str)):
            plain[key] = value
        elif isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
            plain[key] = list(value)
        else:
            plain[key] = repr(value)
    return plain


def neuron_axis(layer: Layer, group: Mapping[str, Any]) -> str | None:
    """Which axis of the captured matrix the optimizer normalizes, where its settings say so.

    The optimizer sees the parameter as it is stored, and a fused one as a whole.
    """
    axis = group.get("neuron_axis") if group.get("algorithm") != "adamw" else None
    stored = tuple(layer.parameter.shape)
    if len(stored) > 2 and layer.piece.expert is None:
        return None
    if axis == "larger":
        axis = "rows" if stored[-2] >= stored[-1] else "columns"
    if layer.transposed and axis in ("rows", "columns"):
        return "columns" if axis == "rows" else "rows"
    return axis if axis in ("rows", "columns") else None


def run_info(
    run: str,
    layers: Sequence[Layer],
    optimizers: Sequence[Any],
    *,
    capture: Mapping[str, Any],
    config: Mapping[str, Any],
    world_size: int,
) -> RunInfo:
    """Describe a run as it starts.

    Args:
        run: its name.
        layers: that are captured.
        optimizers: that are watched.
        capture: the settings of `watch`.
        config: the user's own, as JSON values.
        world_size: how many processes train.
    """
    names = names_of(optimizers)
    kinds = [f"{type(o).__module__}.{type(o).__qualname__}" for o in optimizers]
    return RunInfo(
        run=run,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "optgeom": optgeom.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        command=tuple(sys.argv),
        world_size=world_size,
        capture=dict(capture),
        optimizers=tuple(
            OptimizerInfo(name, kind, tuple(_settings(group) for group in optimizer.param_groups))
            for name, kind, optimizer in zip(names, kinds, optimizers, strict=True)
        ),
        layers=tuple(
            LayerInfo(
                name=layer.name,
                kind=layer.kind,
                block=layer.block,
                shape=layer.shape,
                dtype=str(layer.parameter.dtype).removeprefix("torch."),
                optimizer=names[layer.optimizer],
                group=layer.group,
                algorithm=layer.algorithm,
                neuron_axis=neuron_axis(
                    layer, optimizers[layer.optimizer].param_groups[layer.group]
                ),
                transposed=layer.transposed,
                split=layer.split,
                parameter=layer.parameter_name if layer.split else None,
                stored=tuple(layer.parameter.shape),
                placement=layer.placement,
            )
            for layer in layers
        ),
        config=dict(config),
        columns={"metrics": columns("metrics"), "spectra": columns("spectra")},
        attempts=(),
    )
