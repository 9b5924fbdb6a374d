"""The catalogue as a page: docs/metrics.md is what `metrics_page` returns."""

from __future__ import annotations

from optgeom.geometry.accuracy import SINGULAR_VALUES
from optgeom.geometry.catalogue import METRICS, SYMBOLS
from optgeom.geometry.metric import Band, Metric

_CLOCKS = {
    "metrics": "norms clock (`every`)",
    "spectra": "spectra clock (`spectra_every`)",
}

_INTRODUCTION = f"""\
# Metrics

What each number that optgeom records means: look a column, an axis of the dashboard or a line of
`optgeom compare` up by its name. An entry says in words what the metric tells and how it misleads;
then its formula, the values that it can take, its unit, and the clock that captures it; the stages
that have it; a healthy band, where one is known; and how far the recorded number may be from the
exact one.

{SYMBOLS}

Every metric is a column of `trace.metrics()` and a key of `optgeom.measure(matrix)`. A value that
is not defined is null, and `status` or `spectrum_status` says why: `zero`, `non_finite`, `lost`
(by difference, more than a quarter of the entries did not move), `not_converged`. With
`spectrum_status` at `at_floor` the smallest singular value is not above the noise floor, and
`condition_number` is a lower bound. Stages, where a metric is not defined on all, are named; a
healthy band is given only where theory or a source gives one, for that stage, rule and shape.

A metric that is measured by turns costs more than the norms and changes more slowly: where norms
are captured more often than every 32 steps, a layer's rows have it every 32 steps or so, and
wherever the layer's spectrum is captured; `status` is ok all the same.

Singular values come from the float64 Gram matrix of the short side (`gram`). Where the smallest is
below 1.5e-7 of the largest, and the matrix has not been rounded to float32 or less, they come from
a float64 SVD (`svd`). `optgeom analyze` takes float32 products (`gram32`) where a spectrum is known
to be flat. `spectrum_method` says which.

{SINGULAR_VALUES}
The error of a metric is a bound of what measuring adds to its formula, of the entries as they are
stored. Parts joined by "and" add up; unless float64 is named apart, they hold for every dtype.
kappa is s_1 over the smallest singular value that the metric depends on (the last one; the lower
quartile for q75_q25; the last that is kept for the leverage), infinite where that is not above the
noise floor. As a number the bound is `METRICS[name].accuracy.bound(value, ...)`. The tests hold
every metric to it, against extended precision, on matrices of condition numbers up to 1e14, rank
deficient, of entries all alike, and of scales up to the ends of their dtype.
"""

_END = """\
---

This page is generated from `optgeom.geometry.METRICS` (`make pages`): change the catalogue, not the
page.
"""


def metrics_page() -> str:
    """The page, in Markdown, grouped as the pickers are.

    Returns:
        Text of docs/metrics.md, with a final newline.
    """
    parts = [_INTRODUCTION]
    groups = dict.fromkeys(metric.group for metric in METRICS.values())
    for group in groups:
        parts.append(f"## {group}\n")
        parts.extend(_entry(metric) for metric in METRICS.values() if metric.group == group)
    parts.append(_END)
    return "\n".join(parts)


def _entry(metric: Metric) -> str:
    lines = [
        f"### `{metric.name}`",
        "",
        f"{metric.title}. {metric.help}",
        "",
        f"- Formula: {metric.formula}",
        f"- Range: {_interval(*metric.range)}; unit: {metric.unit}; {_CLOCKS[metric.table]}"
        + (", by turns" if metric.by_turns else ""),
    ]
    if metric.stages:
        lines.append(f"- Stages: {', '.join(metric.stages)}")
    if metric.reference:
        lines.append(f"- Reference: {metric.reference}")
    lines.extend(f"- Healthy: {_band(band)}" for band in metric.healthy)
    lines.append(f"- Error: {metric.accuracy}")
    return "\n".join(lines) + "\n"


def _band(band: Band) -> str:
    return (
        f"{_interval(band.low, band.high)} for `{band.stage}`, {band.rule}, {band.shape} "
        f"({band.source})"
    )


def _interval(low: float | None, high: float | None) -> str:
    if low is not None and low == high:
        return f"{low:g}"
    left = "unbounded" if low is None else f"{low:g}"
    right = "unbounded" if high is None else f"{high:g}"
    return f"{left} to {right}"
