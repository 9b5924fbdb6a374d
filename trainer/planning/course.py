"""A run's captures, one after another, as the clocks and the budget let them happen."""

from __future__ import annotations

from dataclasses import dataclass

from optgeom.hooks.budget import Budget, Spent
from optgeom.hooks.clock import Clocks, next_capture
from optgeom.hooks.costs import LEAST

MOST = 20_000
"""Captures that are followed; of a longer run the rest goes on as they did."""


@dataclass(frozen=True, slots=True)
class Course:
    """How often what is captured in a run.

    Attributes:
        norms: Captured steps.
        spectra: Captures of all spectra; a part of the layers counts as that.
        updates: The same of raw matrices.
        raw_steps: Steps of which there are raw matrices.
        kept: Share of the spectra that are due which the budget keeps.
        thinning: Where k has come to.
        every: Steps between captures in the end; more than asked where norms alone are too much.
        is_kept: Whether norms are captured as often as asked.
        share: Of the run's time that capture takes, as the budget counts it.
        seconds: That is, of the run.
    """

    norms: float
    spectra: float
    updates: float
    raw_steps: float
    kept: float
    thinning: int
    every: int
    is_kept: bool
    share: float
    seconds: float


def course_of(
    clocks: Clocks, steps: int, budget: float | None, spent: Spent, *, last: bool
) -> Course:
    """Follow a run, with the recorder's own budget.

    Args:
        clocks: Of all layers.
        steps: Of the run.
        budget: Share of the run that capture may take; None: no matter what.
        spent: Seconds of a step and of captures of all layers; `achieved` is not read.
        last: Whether the last step is captured whole.
    """
    keeper, asked = Budget(budget), clocks.every
    norms = spectra = updates = raw_steps = due = total = 0.0
    at: int | None = next_capture([clocks], 0)
    step = 0
    while at is not None and at < steps and norms < MOST:
        step = at
        whole = last and at == steps - 1
        part = 1.0 if whole else 1.0 / keeper.thinning
        cost = spent.norms
        norms += 1
        if whole or clocks.spectra(at):
            due, spectra, cost = due + 1, spectra + part, cost + part * spent.spectra
        if whole or clocks.updates(at):
            updates, raw_steps, cost = updates + part, raw_steps + 1, cost + part * spent.updates
        total += cost
        achieved = total / max((at + 1) * spent.step + total, 1e-12)
        known = Spent(
            achieved,
            spent.step,
            spent.norms if norms > LEAST else 0.0,
            spent.spectra,
            spent.updates,
        )
        (clocks,) = keeper.decide([clocks], [1.0], at, known)
        at = next_capture([clocks], at + 1)
    if at is not None and at < steps:
        longer = steps / (step + 1)
        norms, spectra, updates, raw_steps, due, total = (
            longer * one for one in (norms, spectra, updates, raw_steps, due, total)
        )
    elif last and step != steps - 1:
        norms, spectra, updates, raw_steps, due = (
            one + 1 for one in (norms, spectra, updates, raw_steps, due)
        )
        total += spent.norms + spent.spectra + spent.updates
    return Course(
        norms,
        spectra,
        updates,
        raw_steps,
        spectra / due if due else 1.0,
        keeper.thinning,
        clocks.every,
        clocks.every == asked,
        total / (steps * spent.step + total),
        total,
    )
