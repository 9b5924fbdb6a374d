"""When the same metric of two runs is not the same quantity: shape, scale, floor.

A ratio between runs is published where both values measure the same thing. Each rule looks at a
run and the reference on the cells that both measured, and returns None or why not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from optgeom.geometry.comparison.cells import Cells, Flags
from optgeom.geometry.metric import Metric

_COUNTS = "it counts directions, of which a larger matrix has more"
_EXTREMES = "it is decided by the extremes, which lie farther out among more rows or directions"

DEPENDS_ON_SIZE: Mapping[str, str] = {
    "neuron_norm_max_min": _EXTREMES,
    "column_norm_max_min": _EXTREMES,
    "condition_number": _EXTREMES,
    "condition_number_resolved": _EXTREMES,
    "sigma_min": _EXTREMES,
    "sigma_max": _EXTREMES,
    "stable_rank": _COUNTS,
    "effective_rank": _COUNTS,
    "effective_rank_energy": _COUNTS,
    "nuclear_rank": _COUNTS,
    "resolved_rank": _COUNTS,
    "leverage_rank": _COUNTS,
    "top10_energy": "it takes ten directions, whatever the size",
    "svd_entropy": "it is divided by log r: the same spectrum reads higher in a larger matrix",
    "ns_floor_fraction": "it holds s_i against |A|_F, which grows with the number of directions",
    "neuron_top1pct_share": "of fewer than 100 rows it takes one, which is more than 1 %",
}
"""Metrics without a unit that a larger matrix changes though its rows and spectrum look alike, and
why. Those in the unit of A do too, and need no entry. What is left stays as it is where a matrix is
repeated along the diagonal, or is a mean over entries (update_rms)."""

DEFINED_BY_THE_FLOOR = frozenset(
    {"condition_number_resolved", "resolved_rank", "leverage_rank", "leverage_cv"}
)
"""Metrics of what stands above the noise floor: another floor makes them another quantity."""

UNITLESS = frozenset({"1", "steps"})
"""Units that no choice of a scale enters."""

_OF_SHAPE = frozenset({"Balance", "Conditioning", "Rank"})
_COMMON_UNIT = frozenset({"gradient", "orthogonalized", "weight", "applied"})
_SUMMED = frozenset({"momentum", "ns_input"})
_ADAM = frozenset({"adam", "adamw"})
_NOT_THE_SCALE = frozenset(
    {
        "lr", "initial_lr", "max_lr", "min_lr", "base_lr", "name", "algorithm",
        "weight_decay", "decoupled_weight_decay",
        "foreach", "fused", "capturable", "differentiable", "comm_dtype", "ns_dtype",
    }
)  # fmt: skip
_SAME_FLOOR = 2.0


class Why(NamedTuple):
    """Why two values are not comparable.

    Attributes:
        cause: The sentence; the same for every kind of layer that it holds for.
        detail: The values of one kind; empty where the cause has them.
    """

    cause: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}" if self.detail else self.cause


@dataclass(frozen=True, slots=True)
class Pair:
    """A run and the reference.

    Attributes:
        cells: All runs on common axes.
        run: The run.
        reference: The run that it is compared with.
        shared: (k, L) the cells of one kind of layer that both measured; one at least.
    """

    cells: Cells
    run: str
    reference: str
    shared: Flags

    @property
    def used(self) -> list[int]:
        """Columns of the layers that both measured."""
        return np.flatnonzero(self.shared.any(axis=0)).tolist()


def why_not(metric: Metric, pair: Pair) -> Why | None:
    """The first rule that forbids a ratio; None where all allow it."""
    return next((why for rule in RULES if (why := rule(metric, pair)) is not None), None)


def shape(metric: Metric, pair: Pair) -> Why | None:
    """Matrices of different shapes: only what does not depend on it."""
    for column in pair.used:
        mine, other = (pair.cells.info(run, column).shape for run in (pair.run, pair.reference))
        if mine == other:
            continue
        detail = f"{_size(mine)} in {pair.run}, {_size(other)} in {pair.reference}"
        reason = DEPENDS_ON_SIZE.get(metric.name)
        if reason is None and metric.unit == "as A":
            reason = "it is in the unit of the matrix and grows with it"
        if reason is not None:
            return Why(f"the matrices differ in shape, and {metric.name} with it: {reason}", detail)
        if metric.group in _OF_SHAPE and mine[0] * other[1] != other[0] * mine[1]:
            return Why(
                "the matrices differ in rows : columns, which alone decides how even the rows and "
                "the spectrum of an update can be",
                detail,
            )
    return None


def scale(metric: Metric, pair: Pair) -> Why | None:
    """Values with a unit: only where both runs have the same one."""
    cells, stage, both = pair.cells, pair.cells.stage, (pair.run, pair.reference)
    if metric.unit in UNITLESS or stage in _COMMON_UNIT:
        return None
    rates = [cells.numbers(run, "lr") for run in both] if stage == "update" else []
    for column in pair.used:
        mine, other = (_Rule.of(cells, run, column) for run in both)
        said = mine.apart(other)
        if said is None or (stage in _SUMMED and mine.averages and other.averages):
            continue
        rules = f"{said[0]} in {pair.run}, {said[1]} in {pair.reference}"
        if stage != "update":
            return Why(f"the rules differ, and with them may what {stage} is scaled by", rules)
        own, its = (rate[:, column] for rate in rates)
        unequal = pair.shared[:, column] & ~np.isclose(own, its, rtol=1e-9, atol=0.0)
        if unequal.any():
            row = int(np.argmax(np.where(unequal, np.nan_to_num(own), -1.0)))
            lrs = f"{_rate(own[row])} against {_rate(its[row])}"
            return Why(
                "both the lr that an update is divided by and the rule differ from "
                f"{pair.reference}'s, so that there is no common unit; update_to_weight compares",
                f"lr {lrs} at step {cells.steps[row]:,}, rule {said[0]} against {said[1]}",
            )
    return None


def floor(metric: Metric, pair: Pair) -> Why | None:
    """What is defined by the noise floor: only where both have it, or neither met it."""
    if metric.name not in DEFINED_BY_THE_FLOOR:
        return None
    floors = [relative_floor(pair.cells, run, pair.shared) for run in (pair.run, pair.reference)]
    if not differ(*floors):
        return None
    met = [
        int((pair.shared & at_floor(pair.cells, run)).sum()) for run in (pair.run, pair.reference)
    ]
    if not any(met):
        return None
    return Why(
        f"{metric.name} is of what stands above the noise floor, and the floors differ "
        f"({floors[0]:.2g} s_1 in {pair.run}, {floors[1]:.2g} s_1 in {pair.reference})",
        f"of {int(pair.shared.sum()):,} captures {met[0]:,} and {met[1]:,} reach it",
    )


RULES: tuple[Callable[[Metric, Pair], Why | None], ...] = (shape, scale, floor)


def at_floor(cells: Cells, run: str) -> Flags:
    """(k, L) where the smallest singular value is not above the noise floor."""
    return cells.says(run, "spectrum_status", "at_floor")


def relative_floor(cells: Cells, run: str, where: Flags) -> float:
    """The median noise floor over s_1; NaN where no spectrum was measured."""
    floors, largest = (cells.numbers(run, one)[where] for one in ("noise_floor", "spectral_norm"))
    found = floors[largest > 0.0] / largest[largest > 0.0]
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else np.nan


def differ(one: float, other: float) -> bool:
    """Whether two floors are apart by a factor that is no rounding."""
    return bool(max(one, other) > _SAME_FLOOR * min(one, other))


@dataclass(frozen=True, slots=True)
class _Rule:
    """The rule that moves a layer, as far as run.json tells."""

    name: str
    type: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Cells, run: str, column: int) -> _Rule:
        layer = cells.info(run, column)
        for one in cells.traces[run].info.optimizers:
            if one.name == layer.optimizer:
                groups = one.groups[layer.group : layer.group + 1]
                settings = groups[0] if groups else {}
                name = layer.algorithm or one.type.rpartition(".")[2].lower()
                return cls(name, one.type, settings)
        return cls(layer.algorithm or "unknown", "")

    @property
    def averages(self) -> bool:
        """Whether its momentum is an average of gradients, and so has their unit."""
        return self.name in _ADAM or self.settings.get("momentum_form") == "ema"

    def apart(self, other: _Rule) -> tuple[str, str] | None:
        """How the scale of the two may differ, in words for each; None where it does not."""
        if not {self.name, other.name} <= _ADAM:
            if self.name != other.name or self.name == "unknown":
                return self.name, other.name
            if self.type != other.type:
                return self.type, other.type
        keys = sorted((self.settings.keys() | other.settings.keys()) - _NOT_THE_SCALE)
        # A switch that one of them does not know is off there.
        unequal = [
            key
            for key in keys
            if (self.settings.get(key) or None) != (other.settings.get(key) or None)
        ]
        if not unequal:
            return None
        mine, theirs = (
            f"{one.name} with {', '.join(f'{key} {one.settings.get(key)}' for key in unequal[:3])}"
            for one in (self, other)
        )
        return mine, theirs


def _rate(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "unknown"


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} \N{MULTIPLICATION SIGN} {shape[1]}"
