"""The four numbers under the sentence: run B large, run A small beneath, the ratio as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from optgeom.dashboard.data import Value, cell, loss_at
from optgeom.figures.formats import bound, number, ratio, short
from optgeom.figures.names import run_short

if TYPE_CHECKING:
    from optgeom.traces.store import Trace


class Other(NamedTuple):
    """A further run's number: its written name, the written value, what must be said of it."""

    run: str
    value: str
    note: str


class Card(NamedTuple):
    """One number for each shown run.

    Attributes:
        metric: the catalogue's column, or ``loss``.
        title: what it is.
        main: the first run's written value (run B, or A alone).
        main_run: that run's written name.
        note: what must be said of the first value, such as ``not finite at step 5``.
        others: the further runs.
        versus: how the second run's value compares, in words; empty where there is none.
    """

    metric: str
    title: str
    main: str
    main_run: str
    note: str
    others: tuple[Other, ...]
    versus: str


TITLES = {
    "neuron_norm_cv": "CV of neuron norms",
    "neuron_norm_max_min": "largest / smallest neuron",
    "condition_number": "condition number",
    "loss": "loss",
}


def cards(traces: Sequence[Trace], layer: str, *, stage: str, step: int | None) -> tuple[Card, ...]:
    """Return the four cards.

    Args:
        traces: run A, then B, then further runs.
        layer: the layer's name.
        stage: the captured stage of the first three.
        step: the step looked at; None for the last.
    """
    order = [traces[1], traces[0], *traces[2:]] if len(traces) > 1 else list(traces)
    found = []
    for metric, title in TITLES.items():
        if metric == "loss":
            values = [loss_at(trace, step) for trace in order]
        else:
            values = [cell(trace, layer, metric, stage=stage, step=step) for trace in order]
        found.append(_card(metric, title, [trace.name for trace in order], values, step))
    return tuple(found)


def _card(
    metric: str, title: str, runs: Sequence[str], values: Sequence[Value], step: int | None
) -> Card:
    written = [_written(metric, one) for one in values]
    said = [one.note(step) for one in values]
    labels = [run_short(run, limit=12) for run in runs]
    return Card(
        metric,
        title,
        written[0],
        labels[0],
        said[0],
        tuple(Other(*one) for one in zip(labels[1:], written[1:], said[1:], strict=True)),
        _versus(metric, values),
    )


def _written(metric: str, one: Value) -> str:
    if one.is_bound:
        return bound(one.value, is_bound=True)
    if metric != "loss":
        return short(one.value)
    return "NaN" if one.value is not None and math.isnan(one.value) else number(one.value)


def _versus(metric: str, values: Sequence[Value]) -> str:
    if len(values) < 2:
        return "lower is better" if metric == "loss" else ""
    main, other = values[0].value, values[1].value
    if main is None or other is None or any(one.status != "ok" for one in values[:2]):
        return ""
    if metric == "loss":
        gap = other - main
        if number(main) == number(other):
            return "the same"
        return f"{short(abs(gap))} {'higher' if gap > 0 else 'lower'}"
    if main <= 0 or other <= 0:
        return ""
    if values[0].is_bound or values[1].is_bound:
        return "a bound: no ratio"
    return f"{ratio(other / main)} as large"
