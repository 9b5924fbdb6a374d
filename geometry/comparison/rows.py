"""One metric of one kind of layer: which cells the runs share, their quartiles, their ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from optgeom.geometry.comparison.cells import DISTRUSTED, Cells, Flags, Floats, span
from optgeom.geometry.comparison.rules import Pair, Why, at_floor, why_not
from optgeom.geometry.metric import Metric

BOUNDED = "condition_number"
"""The metric that is a lower bound where the smallest singular value is at the noise floor."""

_QUARTILES = (25.0, 50.0, 75.0)
_FINE = frozenset({"ok", "at_floor", "lr_zero", "lr_absent"})


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of one run.

    Attributes:
        kind: The kind of layer.
        metric: The metric's name.
        run: The run.
        quartiles: q25, median, q75 by linear interpolation; None where there is no value.
        are_bounds: Which of them are lower bounds.
        count: Values that they are of.
        layers: Of how many layers.
        steps: Of how many steps.
        bounds: How many of those are lower bounds.
        left_out: Values of the run that they are not of, for not every compared run has them.
        ratio: The median over the reference's; None where not comparable.
        why: Why not; None where comparable.
    """

    kind: str
    metric: str
    run: str
    quartiles: tuple[float, float, float] | None = None
    are_bounds: tuple[bool, bool, bool] = (False, False, False)
    count: int = 0
    layers: int = 0
    steps: int = 0
    bounds: int = 0
    left_out: int = 0
    ratio: float | None = None
    why: Why | None = None

    @property
    def median(self) -> float | None:
        """The median."""
        return None if self.quartiles is None else self.quartiles[1]


_COLUMNS: Mapping[str, pa.DataType] = {
    "kind": pa.string(),
    "metric": pa.string(),
    "run": pa.string(),
    "median": pa.float64(),
    "q25": pa.float64(),
    "q75": pa.float64(),
    "count": pa.int64(),
    "layers": pa.int64(),
    "steps": pa.int64(),
    "left_out": pa.int64(),
    "bounds": pa.int64(),
    "median_is_bound": pa.bool_(),
    "q25_is_bound": pa.bool_(),
    "q75_is_bound": pa.bool_(),
    "ratio": pa.float64(),
    "comparable": pa.bool_(),
    "why": pa.string(),
}


def table_of(rows: list[Row]) -> pa.Table:
    """Put rows into the published table."""
    values = []
    for row in rows:
        q25, median, q75 = row.quartiles or (None, None, None)
        low, middle, high = row.are_bounds
        who = (row.kind, row.metric, row.run)
        what = (median, q25, q75, row.count, row.layers, row.steps, row.left_out)
        said = (row.ratio, row.why is None, str(row.why or ""))
        values.append((*who, *what, row.bounds, middle, low, high, *said))
    return pa.table(
        {
            name: pa.array([one[place] for one in values], kind)
            for place, (name, kind) in enumerate(_COLUMNS.items())
        }
    )


def rows_of(cells: Cells, metric: Metric, reference: str) -> list[Row]:
    """The rows of one metric, by kind and then run.

    Args:
        cells: The runs on common axes.
        metric: The metric.
        reference: The run that the others are compared with.
    """
    values = {run: cells.trusted(run, metric.name) for run in cells.traces}
    bounds = {
        run: at_floor(cells, run) if metric.name == BOUNDED else np.zeros_like(own, bool)
        for run, own in values.items()
    }
    rows = []
    for kind in cells.kinds:
        of_kind = np.zeros(len(cells.layers), bool)
        of_kind[cells.columns(kind)] = True
        measured = {run: np.isfinite(own) & of_kind for run, own in values.items()}
        used, why = _shared(cells, metric, reference, kind, measured)
        found = {
            run: _summary(
                Row(kind, metric.name, run, why=why.get(run)),
                own,
                bounds[run],
                used[run],
                int(measured[run].sum()),
            )
            for run, own in values.items()
        }
        rows += [_with_ratio(row, found[reference]) for row in found.values()]
    return rows


def _shared(
    cells: Cells, metric: Metric, reference: str, kind: str, measured: Mapping[str, Flags]
) -> tuple[dict[str, Flags], dict[str, Why]]:
    """The cells that each run's numbers are of, and why a run is not comparable.

    Runs that are not comparable keep no other from being so: they are shown with all that they
    have, and the others are compared on what those share.
    """
    why = {
        run: _nothing(cells, metric, kind, run) for run, own in measured.items() if not own.any()
    }
    used = dict(measured)
    if reference in why:
        cause = why[reference]
        told = f"the reference, {reference}, has no value: {cause.cause}"
        return used, {run: why.get(run, Why(told, cause.detail)) for run in measured}
    together, those = measured[reference], []
    for run in measured:
        if run == reference or run in why:
            continue
        shared = measured[run] & measured[reference]
        apart = None if shared.any() else _apart(cells, run, reference, kind)
        if apart is None and metric.name == "cosine_previous":
            shared, apart = _equally_far(cells, run, reference, shared)
        if apart is None:
            apart = why_not(metric, Pair(cells, run, reference, shared))
        if apart is None:
            together = together & shared
            those.append(run)
        else:
            why[run] = apart
    if those and not together.any():
        told = f"{', '.join((reference, *those))} share no capture all together: compare in pairs"
        return used, why | dict.fromkeys((reference, *those), Why(told))
    return used | dict.fromkeys((reference, *those), together), why


def _equally_far(cells: Cells, run: str, reference: str, shared: Flags) -> tuple[Flags, Why | None]:
    """Of shared cells those where cosine_previous looks back over as many steps in both."""
    mine, other = (cells.numbers(one, "steps_since_previous") for one in (run, reference))
    equal = shared & (mine == other)
    if equal.any():
        return equal, None
    row, column = (int(place[0]) for place in np.nonzero(shared))
    return equal, Why(
        "the captures before, to which the cosines are, are unequally many steps back",
        f"{mine[row, column]:g} in {run}, {other[row, column]:g} in {reference} at step "
        f"{cells.steps[row]:,}",
    )


def _apart(cells: Cells, run: str, reference: str, kind: str) -> Why:
    """Why two runs that both measured a kind of layer share no cell of it."""
    mine, other = cells.captured(run), cells.captured(reference)
    if not len(np.intersect1d(mine, other)):
        told = f"{span(mine)} in {run}, {span(other)} in {reference}"
        return Why(f"no step is shared with {reference}", told)
    columns = cells.columns(kind)
    if not (cells.has(run) & cells.has(reference))[columns].any():
        names = [
            next(cells.layers[at].layer for at in columns if cells.has(one)[at])
            for one in (run, reference)
        ]
        told = f"such as {names[0]} in {run}, {names[1]} in {reference}"
        return Why(f"no layer is shared with {reference}", told)
    return Why(f"at no shared step was the same layer measured in it and {reference}")


def _nothing(cells: Cells, metric: Metric, kind: str, run: str) -> Why:
    """Why a run has no value of a metric and a kind of layer."""
    stage, columns = cells.stage, cells.columns(kind)
    if run not in cells.present:
        there = ", ".join(cells.traces[run].stages) or "nothing"
        return Why(f"{stage} was not captured; there is {there}")
    if metric.stages and stage not in metric.stages:
        return Why(f"{metric.name} is defined on {' and '.join(metric.stages)}, not on {stage}")
    if not len(cells.captured(run)):
        return Why("no step that was asked for was captured")
    if not cells.has(run)[columns].any():
        return Why("there is no layer of this kind")
    where = cells.rows(run, metric.name)
    where[:, np.setdiff1d(np.arange(len(cells.layers)), columns)] = False
    count = int(where.sum())
    if not count:
        return Why(f"no {metric.table} of {stage} were recorded of this kind of layer")
    own = "status" if metric.table == "metrics" else "spectrum_status"
    odd = {word: n for word, n in cells.counted(run, own, where).items() if word not in _FINE}
    said = cells.counted(run, "status", where)
    odd |= {word: said[word] for word in DISTRUSTED if word in said}
    if not odd:
        return Why(f"{metric.name} is null, though the status is fine", f"{count:,} captures")
    each = ", ".join(f"{word} {n:,} of {count:,}" for word, n in odd.items())
    return Why(f"{metric.name} is null or not to be trusted, as the status says", each)


def _summary(row: Row, values: Floats, bounds: Flags, used: Flags, measured: int) -> Row:
    if not used.any():
        return row
    chosen, at_bound = values[used], bounds[used]
    q25, median, q75 = np.percentile(chosen, _QUARTILES).tolist()
    return replace(
        row,
        quartiles=(q25, median, q75),
        are_bounds=_bounded(chosen, at_bound),
        count=len(chosen),
        layers=int(used.any(axis=0).sum()),
        steps=int(used.any(axis=1).sum()),
        bounds=int(at_bound.sum()),
        left_out=measured - len(chosen),
    )


def _bounded(values: Floats, bounds: Flags) -> tuple[bool, bool, bool]:
    """Which quartiles are lower bounds: those that rise if the bounds do.

    A bound above a quartile leaves it exact, however many there are.
    """
    if not bounds.any():
        return False, False, False
    raised = np.where(bounds, np.inf, values)
    rises: NDArray[np.bool_] = np.zeros(3, bool)
    for method in ("lower", "higher"):  # the two values that a quartile lies between
        rises |= np.percentile(values, _QUARTILES, method=method) != np.percentile(
            raised, _QUARTILES, method=method
        )
    return bool(rises[0]), bool(rises[1]), bool(rises[2])


def _with_ratio(row: Row, reference: Row) -> Row:
    if row.why is not None or row.median is None or reference.median is None:
        return row
    for one in (reference, row):
        if one.are_bounds[1]:
            return replace(
                row,
                why=Why(
                    f"the median of {one.run} is a lower bound, and bounds have no ratio",
                    f"{one.bounds:,} of {one.count:,} values at the noise floor",
                ),
            )
    if reference.median == 0.0:
        return replace(row, why=Why(f"the median of {reference.run} is 0"))
    if row.median * reference.median < 0.0:
        told = f"{row.median:.3g} in {row.run}, {reference.median:.3g} in {reference.run}"
        return replace(row, why=Why("the medians have opposite signs", told))
    return replace(row, ratio=row.median / reference.median)
