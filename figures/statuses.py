"""Rows that were captured and hold no number: what their status says, in words.

A captured step without a value is a finding (the run diverged, nothing moved), not a gap: figures
and pages say it instead of showing an earlier step's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optgeom.figures.arrays import Flags, Ints
from optgeom.figures.names import run_label
from optgeom.figures.reading import Missing, layer_in, missing_table

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

WORDS = {
    "non_finite": "not finite",
    "zero": "zero",
    "lost": "lost in the weights' rounding",
    "not_converged": "without converged singular values",
    "unverified": "not verified",
    "incomplete": "not complete",
    "undefined": "not defined",
    "no_second_moment": "not known (no second moment)",
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


class Statuses(NamedTuple):
    """What every cell of one stage says of itself, for the columns of one table.

    Attributes:
        steps: (k,) as those of ``Trace.grid``.
        layers: the layers of the columns.
        known: the statuses that occur.
        codes: (k, L) places in ``known``; -1 where the table's clock did not capture the cell.
    """

    steps: Ints
    layers: tuple[str, ...]
    known: tuple[str, ...]
    codes: npt.NDArray[np.int16]

    @property
    def captured(self) -> Flags:
        """(k, L): whether the table's clock captured the cell."""
        flags: Flags = self.codes >= 0
        return flags

    @property
    def explained(self) -> Flags:
        """(k, L): whether a cell's status is why it holds no number.

        A cell without a number and without such a status was not asked for one: its spectrum was
        not due, or layers take turns at what is compared. That is no finding and breaks no line.
        """
        why = np.array([*(one not in _FINE for one in self.known), False], dtype=bool)
        return why[self.codes]

    def at(self, row: int, column: int) -> str:
        """Return the status of one cell, empty where it was not captured."""
        code = int(self.codes[row, column])
        return self.known[code] if code >= 0 else ""


def statuses(trace: Trace, *, stage: str, of: str, layers: Sequence[str] | None = None) -> Statuses:
    """Return the statuses of a stage's cells.

    Args:
        trace: the run.
        stage: the stage.
        of: ``metrics`` or ``spectra``: which clock the asked-for column is on.
        layers: some of the grid's layers; None for all.
    """
    general = trace.words("status", stage)
    chosen: tuple[str, ...] = general.layers if layers is None else tuple(layers)
    columns = slice(None) if layers is None else layer_places(general.layers, chosen)
    words_of = _Words(general.words, general.codes[:, columns])
    # The learning rate's words are about units; without a norm, the matrix was zero.
    zero, ok = words_of.code("zero"), words_of.code("ok")
    units = [place for place, word in enumerate(general.words) if word in _UNITS]
    found = words_of.codes
    if units:
        norms = trace.grid("frobenius_norm", stage).values[:, columns]
        found = np.where(np.isin(found, units), np.where(np.isfinite(norms), ok, zero), found)
    if of != "metrics":
        found = _of_spectra(trace, stage, columns, found, words_of)
    return Statuses(general.steps, chosen, tuple(words_of.words), found.astype(np.int16))


def _of_spectra(
    trace: Trace, stage: str, columns: Any, general: npt.NDArray[np.int16], words_of: _Words
) -> npt.NDArray[np.int16]:
    own = trace.words("spectrum_status", stage)
    unverified, ok = words_of.code("unverified"), words_of.code("ok")
    # -1, not captured, is the last place of the table that follows.
    table = np.array([words_of.code(word) for word in own.words] + [-1], dtype=np.int16)
    fine = np.array([word in _FINE for word in own.words] + [False], dtype=bool)
    codes = own.codes[:, columns]
    as_said = np.where(general == unverified, unverified, ok)
    found: npt.NDArray[np.int16] = np.where(fine[codes], as_said, table[codes])
    return found


class _Words:
    """Words as numbers, more of which may follow."""

    def __init__(self, words: Sequence[str], codes: npt.NDArray[np.int16]) -> None:
        self.words = list(words)
        self.codes = codes

    def code(self, word: str) -> int:
        """Return a word's number, a new one where it had none."""
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)


def layer_places(there: Sequence[str], wanted: Sequence[str]) -> Ints:
    """Return where layers stand in a grid; those that it lacks are an error of the caller."""
    places = {name: place for place, name in enumerate(there)}
    return np.array([places[name] for name in wanted], dtype=np.int64)


def status_at(trace: Trace, layer: str, *, stage: str, step: int, of: str) -> str:
    """Return the status of one captured cell, ``ok`` where its row has none."""
    found = statuses(trace, stage=stage, of=of, layers=[layer])
    row = int(np.searchsorted(found.steps, step))
    known = row < len(found.steps) and int(found.steps[row]) == step
    return (found.at(row, 0) if known else "") or "ok"


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
    found = statuses(trace, stage=stage, of=table, layers=None if layer is None else [layer])
    told = np.argwhere(found.explained)
    if not len(told):
        return absent
    # Cells come by step, then by layer in the model's order: the newest is the last.
    row, column = (int(one) for one in told[-1])
    step = int(found.steps[row])
    return unusable(trace, stage=stage, status=found.at(row, column), step=step)
