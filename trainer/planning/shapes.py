"""The matrices of a run, from a model and an optimizer that are made on the meta device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from optgeom.geometry.measure import WITHOUT_SPECTRUM
from optgeom.hooks.clock import Clocks
from optgeom.hooks.describe import describe
from optgeom.hooks.layers import select
from optgeom.optim.matrix_optimizer import MatrixOptimizer
from optgeom.optim.newton_schulz import DTYPES
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.model import GPT
from optgeom.trainer.optimizers import build_optimizer


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter, as fully_shard and the optimizer see it.

    Attributes:
        name: In the model.
        parameter: On the meta device.
        unit: The block that it is gathered with; -1: the rest of the model, gathered at once.
        state: Shapes of what the optimizer keeps of it.
        group: Which group of orthogonalized matrices it is in; -1: AdamW moves it.
    """

    name: str
    parameter: Parameter
    unit: int
    state: tuple[tuple[int, ...], ...]
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return tuple(self.parameter.shape)

    @property
    def sums(self) -> int:
        """How many numbers NorMuon adds up over rows: two, or one of every column; Muon none."""
        if self.group < 0 or len(self.state) < 2:
            return 0
        return self.state[1][-1] if self.state[1][-1] > 1 else 2

    def is_cut_like(self, shape: Sequence[int]) -> bool:
        """Whether state of that shape lies over the ranks as the parameter does."""
        return shape[0] == self.shape[0]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a group of matrices is orthogonalized.

    Attributes:
        steps: Newton-Schulz steps.
        bytes: Of a number on its way between ranks.
        low: Whether the products are made in bfloat16.
    """

    steps: int
    bytes: int
    low: bool


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """What of a run follows from its settings alone.

    Attributes:
        weights: Every parameter.
        rules: By group of matrices.
        layers: The captured matrices, (rows, columns), in the trace's order.
        clocks: Of all of them.
        stages: How many are recorded, of those that the optimizer has; `spectral` of them have
            singular values.
        update: Whether the update is among them.
        bound: Bytes of a trace's 1000 steps as `Recorder.describe` says it.
    """

    weights: tuple[Weight, ...]
    rules: tuple[Rule, ...]
    layers: tuple[tuple[int, int], ...]
    clocks: Clocks
    stages: int
    spectral: int
    update: bool
    bound: float

    @property
    def units(self) -> tuple[tuple[Weight, ...], ...]:
        """The rest of the model, then its blocks."""
        found: dict[int, list[Weight]] = {}
        for one in sorted(self.weights, key=lambda one: one.unit):
            found.setdefault(one.unit, []).append(one)
        return tuple(map(tuple, found.values()))


def shapes_of(config: TrainConfig) -> Shapes:
    """Make a configuration's model and optimizer without memory, and look at them.

    Args:
        config: The run.

    Raises:
        OptgeomError: A setting of the optimizer or of the capture that cannot work.
    """
    with torch.device("meta"):
        model = GPT(config.model, length=1)  # no weight depends on the length
    optimizer = build_optimizer(model, config.optimizer)
    own = config.capture
    layers, decisions = select(model, [optimizer], own.layers)
    clocks = Clocks.of(own.every, own.spectra_every, own.updates_every, own.burst)
    groups = [group for group in optimizer.param_groups if _is_matrix(group, optimizer)]
    places = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
    weights = tuple(
        Weight(
            name,
            parameter,
            int(name.split(".")[1]) if name.startswith("blocks.") else -1,
            _state(optimizer, groups, places.get(id(parameter), -1), parameter),
            places.get(id(parameter), -1),
        )
        for name, parameter in model.named_parameters()
    )
    recorded = set(own.stages) - _lacking(optimizer, weights)
    return Shapes(
        weights=weights,
        rules=tuple(_rule(optimizer, group) for group in groups),
        layers=tuple(layer.shape for layer in layers),
        clocks=clocks,
        stages=len(recorded),
        spectral=len(recorded - WITHOUT_SPECTRUM),
        update="update" in own.stages,
        bound=1e6 * describe(decisions, layers, clocks, len(own.stages)).megabytes_per_1000_steps,
    )


def _is_matrix(group: dict[str, Any], optimizer: Optimizer) -> bool:
    return isinstance(optimizer, MatrixOptimizer) and group["algorithm"] != "adamw"


def _lacking(optimizer: Optimizer, weights: Sequence[Weight]) -> set[str]:
    """Stages that hidden matrices do not go through."""
    if not isinstance(optimizer, MatrixOptimizer):
        return {"ns_input", "orthogonalized"}
    has_second = any(one.group >= 0 and len(one.state) > 1 for one in weights)
    return set() if has_second else {"second_moment"}


def _settings(optimizer: Optimizer, group: dict[str, Any]) -> Any:
    assert isinstance(optimizer, MatrixOptimizer)
    kind = optimizer.settings_type
    return kind(**{one.name: group[one.name] for one in fields(kind)})


def _rule(optimizer: Optimizer, group: dict[str, Any]) -> Rule:
    settings = _settings(optimizer, group)
    assert isinstance(optimizer, MatrixOptimizer)
    return Rule(
        steps=settings.ns_steps,
        bytes=DTYPES[settings.comm_dtype or settings.ns_dtype].itemsize,
        low=settings.ns_dtype == "bfloat16",
    )


def _state(
    optimizer: Optimizer, groups: Sequence[dict[str, Any]], place: int, parameter: Parameter
) -> tuple[tuple[int, ...], ...]:
    shape = tuple(parameter.shape)
    if place < 0:
        return shape, shape
    assert isinstance(optimizer, MatrixOptimizer)
    extra = optimizer.extra_state(parameter.shape, _settings(optimizer, groups[place]))
    return shape, *extra.values()


def numel(shape: Sequence[int]) -> int:
    """Numbers of a shape."""
    return math.prod(shape)
