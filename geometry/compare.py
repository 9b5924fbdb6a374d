"""Runs side by side: medians and quartiles of a metric over layers and steps, by kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa

from optgeom.geometry.catalogue import METRICS, metric_named
from optgeom.geometry.comparison.cells import cells
from optgeom.geometry.comparison.findings import aligned_steps, findings
from optgeom.geometry.comparison.result import Comparison
from optgeom.geometry.comparison.rows import BOUNDED, rows_of, table_of
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.info import LayerInfo
from optgeom.traces.store import Trace, Traces

DEFAULT_METRICS = (
    "neuron_norm_cv",
    "neuron_norm_max_min",
    "condition_number",
    "stable_rank",
    "update_rms",
)
_VALUE_TYPES = {
    "metric": pa.string(),
    "run": pa.string(),
    "median": pa.float64(),
    "q25": pa.float64(),
    "q75": pa.float64(),
    "count": pa.int64(),
    "bounds": pa.int64(),
}


def compare(
    traces: Mapping[str, Trace],
    *,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    stage: str = "update",
    steps: int | Iterable[int] | slice | None = None,
    reference: str | None = None,
) -> Comparison:
    """Compare runs: medians, quartiles and ratios by kind of layer, where there is a ratio.

    Runs are aligned by step and layer: medians and ratios of what is comparable are over the cells
    that all compared runs measured, of the newest attempt, unverified rows left out. A run that is
    not comparable is shown with all that it has, and narrows no other. docs/compare.md says what
    is refused, and why.

    Args:
        traces: Two runs or more by name, such as `open_traces` gives; the order is kept.
        metrics: Names from the catalogue.
        stage: The stage to compare.
        steps: As for `Trace.metrics`, but for a named step one run is enough; None: all captured.
        reference: The run that ratios are to; None: the first that captured the stage.

    Returns:
        The table, the shared steps, and the findings.

    Raises:
        OptgeomError: fewer than two runs, no such reference, no metric, or one that the catalogue
            lacks.
        NotCaptured: no run has the stage, or the steps.
    """
    names = list(dict.fromkeys(_known(metrics)))
    if not names:
        raise OptgeomError(f"no metric was named: there are {', '.join(METRICS)}")
    if len(traces) < 2:
        there = f"only {next(iter(traces))}" if traces else "none"
        raise OptgeomError(f"two runs or more can be compared, there is {there}: see open_traces")
    if reference is not None and reference not in traces:
        raise OptgeomError(f"no run {reference!r} as reference: there are {', '.join(traces)}")
    found = cells(traces, stage, steps)
    base = found.present[0] if reference is None else reference
    rows = [row for name in names for row in rows_of(found, METRICS[name], base)]
    place = {kind: at for at, kind in enumerate(found.kinds)}
    rows.sort(key=lambda row: place[row.kind])  # stable: then by metric, then by run
    damaged = traces.damaged if isinstance(traces, Traces) else ()
    return Comparison(
        table=table_of(rows),
        stage=stage,
        reference=base,
        runs=tuple(traces),
        steps=tuple(aligned_steps(found, base).tolist()),
        findings=findings(found, rows, base, damaged),
    )


def by_kind(
    traces: Mapping[str, Trace],
    *,
    metrics: Iterable[str] = DEFAULT_METRICS,
    stage: str = "update",
    steps: int | Iterable[int] | slice | None = None,
) -> pa.Table:
    """Compare runs kind by kind.

    Args:
        traces: Runs by name; the order is kept.
        metrics: Names from the catalogue.
        stage: The stage to compare; runs that did not capture it are left out.
        steps: As for `Trace.metrics`; None: all captured steps.

    Returns:
        kind, metric, run, median, q25, q75 (by linear interpolation), count (values that are not
        null, over layers and steps) and bounds (how many of them are lower bounds, at the noise
        floor). Rows by kind in the models' order, then metric, then run; none where count is 0.

    Raises:
        NotCaptured: if no run has the stage and the steps.
        OptgeomError: if a metric is not in the catalogue.
    """
    return _grouped(traces, "kind", lambda layer: layer.kind, metrics, stage, steps)


def by_algorithm(
    traces: Mapping[str, Trace],
    *,
    metrics: Iterable[str] = ("update_rms",),
    stage: str = "update",
    steps: int | Iterable[int] | slice | None = None,
) -> pa.Table:
    """The same by the rule that moves a layer: an optimizer's Muon part against its AdamW part.

    Args:
        traces: Runs by name.
        metrics: Names from the catalogue.
        stage: The stage to compare.
        steps: As for `Trace.metrics`.

    Returns:
        As `by_kind`, with `algorithm` for `kind`; "" where run.json names none.

    Raises:
        NotCaptured: if no run has the stage and the steps.
        OptgeomError: if a metric is not in the catalogue.
    """
    return _grouped(traces, "algorithm", lambda layer: layer.algorithm or "", metrics, stage, steps)


def _grouped(
    traces: Mapping[str, Trace],
    key: str,
    group_of: Callable[[LayerInfo], str],
    metrics: Iterable[str],
    stage: str,
    steps: int | Iterable[int] | slice | None,
) -> pa.Table:
    names = _known(metrics)
    if not (steps is None or isinstance(steps, int | slice | range)):
        steps = list(steps)
    found: dict[tuple[str, str, str], tuple[float, float, float, int, int]] = {}
    missing: NotCaptured | None = None
    seen = 0
    for run, trace in traces.items():
        try:
            table = trace.metrics(steps=steps, stages=stage)
        except NotCaptured as error:
            missing = error
            continue
        seen += 1
        groups = {layer.name: group_of(layer) for layer in trace.layers}
        of_row = np.array([groups.get(name, "") for name in table["layer"].to_pylist()], object)
        at_floor = np.array(table["spectrum_status"].to_pylist(), object) == "at_floor"
        for metric in names:
            if metric not in table.schema.names:
                continue
            values = table[metric].to_numpy().astype(np.float64)
            for group in dict.fromkeys(groups.values()):
                chosen = (of_row == group) & np.isfinite(values)
                if chosen.any():
                    q25, median, q75 = np.percentile(values[chosen], [25.0, 50.0, 75.0])
                    bounds = int(at_floor[chosen].sum()) if metric == BOUNDED else 0
                    count = int(chosen.sum())
                    found[group, metric, run] = (median, q25, q75, count, bounds)
    if missing is not None and not seen:
        raise missing
    order = dict.fromkeys(group_of(layer) for trace in traces.values() for layer in trace.layers)
    rows = [
        (group, metric, run, *found[group, metric, run])
        for group in order
        for metric in names
        for run in traces
        if (group, metric, run) in found
    ]
    fields = {key: pa.string(), **_VALUE_TYPES}
    return pa.table(
        {
            name: pa.array([row[place] for row in rows], kind)
            for place, (name, kind) in enumerate(fields.items())
        }
    )


def _known(metrics: Iterable[str]) -> list[str]:
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        metric_named(name)
    return names
