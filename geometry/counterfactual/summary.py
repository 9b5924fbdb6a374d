"""Applied against computed: medians by layer, or by kind of layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optgeom.geometry.comparison.cells import Cells, Flags, Floats, cells
from optgeom.geometry.comparison.result import number
from optgeom.geometry.comparison.rules import at_floor
from optgeom.geometry.counterfactual.entering import group_of
from optgeom.geometry.counterfactual.rule import SecondMoment
from optgeom.traces.info import LayerInfo
from optgeom.traces.store import Trace

EVEN = 1e-3
"""A CV below this is no spread that anyone would act on."""

_FINE = frozenset({"ok", "lr_zero", "lr_absent"})

UNKNOWN = "other"
"""The kind of a layer whose name says none: such layers need not be alike, and no median is taken
over several of them."""

WHY = {
    "no_second_moment": "too few consecutive captured steps for the second moment",
    "incomplete": "the recorded matrix is not complete",
    "second_moment_incomplete": "a matrix that the second moment needs is not complete",
    "zero": "what enters the rule is zero",
    "non_finite": "what enters the rule is not finite",
}
"""Statuses of computed rows without a number, in words."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or one kind of layer: see `WhatIf.summary`.

    Of `young`, `own_young` are so because of the second moment of the run's own rule.
    """

    rule: str
    layer: str | None
    kind: str
    block: int | None
    layers: int
    cells: int
    computed: int
    compared: int
    young: int
    own_young: int
    neuron_norm_cv_applied: float | None
    neuron_norm_cv_computed: float | None
    condition_number_applied: float | None
    condition_number_applied_is_bound: bool
    condition_number_computed: float | None
    condition_number_computed_is_bound: bool
    update_rms_ratio: float | None
    cosine_applied: float | None
    why: str

    @property
    def name(self) -> str:
        """What the row is of."""
        return self.kind if self.layer is None else self.layer

    @property
    def evening(self) -> float | None:
        """How many times more even the norms of the neurons would be: applied over computed CV.

        CVs below `EVEN` count as that.
        """
        if self.neuron_norm_cv_applied is None or self.neuron_norm_cv_computed is None:
            return None
        return max(self.neuron_norm_cv_applied, EVEN) / max(self.neuron_norm_cv_computed, EVEN)


def spread(value: float, digits: int = 3) -> str:
    """A CV or a condition number for people; "<0.001" where a CV is below `EVEN`.

    >>> spread(0.2345), spread(3e-8)
    ('0.234', '<0.001')
    """
    return f"<{EVEN:g}" if value < EVEN else number(value, digits)


def summarized(
    trace: Trace, computed: Trace, rule: str, by: Literal["layer", "kind"]
) -> tuple[Row, ...]:
    """The rows of one computed trace, in the model's order.

    Args:
        trace: The run.
        computed: What was computed from it.
        rule: The rule's name.
        by: What a row is of; layers of an unknown kind have a row each.
    """
    found = cells({"applied": trace, "computed": computed}, "update", None)
    place = {one.layer: at for at, one in enumerate(found.layers)}
    groups: dict[str, list[LayerInfo]] = {}
    for layer in computed.layers:
        is_alone = by == "layer" or layer.kind == UNKNOWN
        groups.setdefault(layer.name if is_alone else f"kind {layer.kind}", []).append(layer)
    moment = computed.info.computed.get("second_moment") or {}
    numbers = _Numbers.of(found, trace, int(moment.get("steps_needed", 0)))
    return tuple(
        _row(
            rule,
            group,
            numbers,
            np.array([place[one.name] for one in group]),
            is_layer=by == "layer" or group[0].kind == UNKNOWN,
        )
        for group in groups.values()
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """Columns of both traces on common axes, (k, L)."""

    cells: Cells
    cv: tuple[Floats, Floats]
    condition: tuple[Floats, Floats]
    bounds: tuple[Flags, Flags]
    rms: tuple[Floats, Floats]
    cosine: Floats
    there: Flags
    young: Flags
    own_young: Flags

    @classmethod
    def of(cls, found: Cells, trace: Trace, needed: int) -> _Numbers:
        """Of all cells.

        Args:
            found: The run, "applied", and what was computed from it, "computed".
            trace: The run.
            needed: Steps from which a second moment of the computed rule is no longer young.
        """
        averaged = found.numbers("computed", "second_moment_steps")
        young = np.isfinite(averaged) & (averaged < needed)
        own = found.numbers("applied", "second_moment_steps")
        own_young = np.isfinite(own) & (own < _needed(found, trace))

        def both(metric: str) -> tuple[Floats, Floats]:
            return grown("applied", metric), grown("computed", metric)

        def grown(run: str, metric: str) -> Floats:
            values = found.trusted(run, metric)
            values[young | own_young] = np.nan
            return values

        there = np.isfinite(found.numbers("computed", "frobenius_norm"))
        return cls(
            found,
            both("neuron_norm_cv"),
            both("condition_number"),
            (at_floor(found, "applied"), at_floor(found, "computed")),
            both("update_rms"),
            grown("computed", "cosine_applied"),
            found.rows("computed", "frobenius_norm"),
            (young | own_young) & there,
            own_young & ~young & there,
        )


def _needed(found: Cells, trace: Trace) -> Floats:
    """(L,) steps from which the second moment of the run's own rule is no longer young.

    0 where its rule normalizes no neurons, or is not known to.
    """
    needed = np.zeros(len(found.layers))
    for at, (name, _) in enumerate(found.layers):
        layer = next((one for one in trace.layers if one.name == name), None)
        if layer is None or layer.neuron_axis is None:
            continue
        beta2 = group_of(trace.info, layer)[1].get("beta2")
        if isinstance(beta2, int | float) and 0.0 <= beta2 < 1.0:
            needed[at] = SecondMoment(float(beta2), lambda shape: shape).steps_needed
    return needed


def _row(
    rule: str,
    group: Sequence[LayerInfo],
    numbers: _Numbers,
    columns: NDArray[np.intp],
    *,
    is_layer: bool,
) -> Row:
    cv = tuple(one[:, columns] for one in numbers.cv)
    shared = np.isfinite(cv[0]) & np.isfinite(cv[1])
    condition = tuple(one[:, columns] for one in numbers.condition)
    conditioned = np.isfinite(condition[0]) & np.isfinite(condition[1])
    bounds = tuple(one[:, columns] for one in numbers.bounds)
    rms = tuple(one[:, columns] for one in numbers.rms)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rms[1] / rms[0]
    # where the run has no number of its own, the computed one is shown alone
    alone = not shared.any()
    medians = [
        None if alone else _median(cv[0][shared]),
        _median(cv[1][np.isfinite(cv[1]) if alone else shared]),
    ]
    alone = not conditioned.any()
    used = np.isfinite(condition[1]) if alone else conditioned
    conditions = [
        None if alone else _median(condition[0][conditioned]),
        _median(condition[1][used]),
    ]
    are_bounds = [
        not alone and _is_bound(condition[0][conditioned], bounds[0][conditioned]),
        _is_bound(condition[1][used], bounds[1][used]),
    ]
    young = int(numbers.young[:, columns].sum())
    computed = int(np.isfinite(rms[1]).sum()) + young
    return Row(
        rule=rule,
        layer=group[0].name if is_layer else None,
        kind=group[0].kind,
        block=group[0].block if is_layer else None,
        layers=len(group),
        cells=int(numbers.there[:, columns].sum()),
        computed=computed,
        compared=int(shared.sum()),
        young=young,
        own_young=int(numbers.own_young[:, columns].sum()),
        neuron_norm_cv_applied=medians[0],
        neuron_norm_cv_computed=medians[1],
        condition_number_applied=conditions[0],
        condition_number_applied_is_bound=are_bounds[0],
        condition_number_computed=conditions[1],
        condition_number_computed_is_bound=are_bounds[1],
        update_rms_ratio=_median(ratio[np.isfinite(ratio)]),
        cosine_applied=_median(numbers.cosine[:, columns][np.isfinite(numbers.cosine[:, columns])]),
        why=_why(numbers.cells, columns),
    )


def _median(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) else None


def _is_bound(values: Floats, bounds: Flags) -> bool:
    """Whether the median rises with those of its values that are lower bounds."""
    if not bounds.any():
        return False
    raised = np.where(bounds, np.inf, values)
    return bool(np.median(raised) != np.median(values))


def _why(found: Cells, columns: NDArray[np.intp]) -> str:
    where = np.zeros((len(found.steps), len(found.layers)), bool)
    where[:, columns] = found.rows("computed", "frobenius_norm")[:, columns]
    counts = found.counted("computed", "status", where)
    total = sum(counts.values())
    return "; ".join(
        f"{count:,} of {total:,}: {WHY.get(word, word)}"
        for word, count in counts.items()
        if word not in _FINE
    )
