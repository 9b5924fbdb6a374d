"""The share of a run that capture may take, kept by thinning layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgeom.hooks.clock import Clocks

MOST_THINNING = 1 << 16
"""Beyond this, thinning further saves nothing that could be measured."""

DOUBLED = (
    "norms alone exceed the budget of %.3g of the run: they are captured every %d steps from step "
    "%d on, instead of every %d; a larger budget=, or None, keeps them"
)
"""What is said then, of the budget, the steps now, from where on, and the steps before."""

SLACK = 1.1
"""What is measured of a part of the layers is not quite what all cost: without a gap between up
and down, the thinning would swing over three powers where one just fits."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What capture costs, in seconds.

    Attributes:
        achieved: the capture's share of the run so far, background seconds included.
        step: an uncaptured step.
        norms: a capture of all layers' norms.
        spectra: of all layers' singular values, on the background thread.
        updates: of all layers' raw matrices.
    """

    achieved: float
    step: float
    norms: float
    spectra: float
    updates: float


@dataclass(slots=True)
class Budget:
    """Turns measured seconds into a thinning and a cadence.

    The thinning moves by one power of two per capture: up while the run so far is beyond its
    share and the next captures would keep it there, down while it is not and they would leave
    room. So it comes to swing between two neighbours, whose mean uses the share up, and no layer
    waits longer than twice as long as another. A doubled clock stays doubled: captured steps are
    to change as seldom as can be.
    """

    share: float | None
    thinning: int = 1

    def decide(
        self, clocks: Sequence[Clocks], weights: Sequence[float], at: int, spent: Spent
    ) -> tuple[Clocks, ...]:
        """Move at most one step toward the share.

        Args:
            clocks: one per layer.
            weights: the part of each layer in a capture of all.
            at: the step.
            spent: what capture has cost so far.

        Returns:
            The clocks; those that cost most are slower where norms alone exceed the share.
        """
        same = tuple(clocks)
        live = [(one, weight) for one, weight in zip(same, weights, strict=True) if one.live(at)]
        if self.share is None or spent.step <= 0.0 or not live:
            return same
        beyond = spent.achieved > self.share
        allowed = self.share * spent.step
        norms = spent.norms * sum(part * one.norms_per_step for one, part in live)
        if norms > allowed:
            return _costliest_slower(same, live) if beyond else same
        cost = spent.spectra * sum(part * one.spectra_per_step for one, part in live)
        cost += spent.updates * sum(part * one.updates_per_step for one, part in live)
        cost, room = cost / self.thinning, allowed - norms
        if beyond and cost > SLACK * room:
            self.thinning = min(2 * self.thinning, MOST_THINNING)
        elif not beyond and cost <= room:
            self.thinning = max(self.thinning // 2, 1)
        return same


def _costliest_slower(
    clocks: Sequence[Clocks], live: Sequence[tuple[Clocks, float]]
) -> tuple[Clocks, ...]:
    """The clocks, with those doubled that cost most per step; the first of equals."""
    rates: dict[Clocks, float] = {}
    for one, part in live:
        rates[one] = rates.get(one, 0.0) + part * one.norms_per_step
    most = max(rates, key=lambda one: rates[one])
    return tuple(one.slower() if one == most else one for one in clocks)
