"""Rows that were captured and hold no number: what their status says, in words.

A captured step without a value is a finding (the run diverged, nothing moved), not a gap: figures
and pages say it instead of showing an earlier step's number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optgeom.figures.names import run_label
from optgeom.figures.reading import Missing, layer_in, missing_table, numbers_of, texts_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from optgeom.traces.store import Trace

WORDS = {
    "non_finite": "not finite",
    "zero": "zero",
    "lost": "lost in the weights' rounding",
    "not_converged": "without converged singular values",
    "unverified": "not verified",
    "incomplete": "not complete",
    "undefined": "not defined",
}
"""Status to words, as in "the update is WORDS at step 5"."""

_FINE = ("", "ok", "at_floor", "floor_unknown")
_UNITS = ("lr_zero", "lr_absent")


def words(status: str) -> str:
    """Return a status in words; one that is not known here as it stands in the trace.

    >>> words("non_finite"), words("half_read")
    ('not finite', 'half read')
    """
    return WORDS.get(status, status.replace("_", " "))


def when(status: str, step: int) -> str:
    """Return what a card or a note says of a captured step.

    >>> when("non_finite", 1240)
    'not finite at step 1,240'
    """
    return f"{words(status)} at step {step:,}"


def statuses_of(table: pa.Table, of: str) -> list[str]:
    """Return, per row of ``Trace.metrics``, what its status says of one table's columns.

    Args:
        table: rows of ``Trace.metrics``.
        of: ``metrics`` or ``spectra``: which clock the asked-for column is on.

    Returns:
        Empty where that clock did not capture the row, else ``ok``, ``unverified``, or why there
        are no numbers.
    """
    general = texts_of(table, "status")
    norms = numbers_of(table, "frobenius_norm")
    found = []
    for place, text in enumerate(general):
        # The learning rate's words are about units; without a norm, the matrix was zero.
        if text in _UNITS:
            text = "ok" if np.isfinite(norms[place]) else "zero"
        found.append(text)
    if of == "metrics":
        return found
    own = texts_of(table, "spectrum_status")
    return [
        text
        if text not in _FINE
        else ("unverified" if row == "unverified" else "ok")
        if text
        else ""
        for text, row in zip(own, found, strict=True)
    ]


def explained(table: pa.Table, of: str) -> npt.NDArray[np.bool_]:
    """Say, per row of ``Trace.metrics``, whether its status is why it holds no number.

    A row without a number and without such a status was not asked for one: its spectrum was not
    due, or layers take turns at what is compared. That is no finding and breaks no line.
    """
    return np.array([status not in _FINE for status in statuses_of(table, of)], dtype=bool)


def status_at(trace: Trace, layer: str, *, stage: str, step: int, of: str) -> str:
    """Return the status of one captured cell, ``ok`` where its row has none."""
    table = trace.metrics(layers=[layer], stages=[stage])
    here = np.flatnonzero(np.asarray(table.column("step").to_numpy()) == step)
    found = [status for place, status in enumerate(statuses_of(table, of)) if place in here]
    return next((status for status in reversed(found) if status), "ok")


def unusable(trace: Trace, *, stage: str, status: str, step: int, beside: bool = False) -> Missing:
    """Say that one run's capture at a step holds nothing to draw, and why.

    Args:
        trace: the run.
        stage: the captured stage.
        status: why; see ``WORDS``.
        step: the captured step.
        beside: True for a stage drawn beside the one asked for, which a short note names.
    """
    run = run_label(trace.name)
    name = stage.replace("_", " ")
    ran = f"{run} diverged" if status == "non_finite" else run
    brief = when(status, step)
    return Missing(
        f"{ran}: the {name} is {brief}.",
        "",
        trace.name,
        f"{name} {brief}" if beside else brief,
    )


def nothing_in(
    trace: Trace, *, title: str, stage: str, table: str, layer: str | None = None
) -> Missing:
    """Say why a run has no number of a stage: its newest row's status, or that there is no row.

    Args:
        trace: the run.
        title: the layer's display name, or "any layer".
        stage: the stage asked for.
        table: ``metrics`` or ``spectra``.
        layer: one layer's name; None: all of them.
    """
    absent = missing_table(trace, title=title, stage=stage, table=table)
    if stage not in trace.stages or (layer is not None and layer_in(trace, layer) is None):
        return absent
    rows = trace.metrics(stages=[stage], layers=None if layer is None else [layer])
    steps = rows.column("step").to_pylist()
    told = [
        (int(step), status)
        for step, status in zip(steps, statuses_of(rows, table), strict=True)
        if status not in _FINE
    ]
    if not told:
        return absent
    step, status = told[-1]
    return unusable(trace, stage=stage, status=status, step=step)
