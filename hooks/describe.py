"""What a recorder says of itself before the run: every parameter, and what it will cost on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optgeom.hooks.clock import Clocks
from optgeom.hooks.layers import Decision, Layer

ROW_BYTES = 80
"""Bytes on disk of a row of metrics, or of spectra without its values: 76 in the demo's traces."""


@dataclass(frozen=True, slots=True)
class Description:
    """Every parameter's decision, and the expected size of the trace."""

    decisions: tuple[Decision, ...]
    megabytes_per_1000_steps: float

    def __str__(self) -> str:
        """A table of one line per parameter."""
        width = max((len(d.name) for d in self.decisions), default=0)
        lines = [
            f"{'captured' if d.captured else '-':8}  {d.name:{width}}  "
            f"{' x '.join(map(str, d.shape)):>14}  {d.reason}"
            for d in self.decisions
        ]
        total = f"about {self.megabytes_per_1000_steps:.3g} MB per 1000 steps"
        return "\n".join([*lines, total])


def describe(
    decisions: tuple[Decision, ...], layers: Sequence[Layer], clocks: Clocks, stages: int
) -> Description:
    """Put the decisions and the expected size together.

    Args:
        decisions: one per parameter.
        layers: the captured ones.
        clocks: the cadences; the budget may make the trace smaller, never larger.
        stages: how many stages each layer records.
    """
    rows = sum(layer.shape[0] for layer in layers)
    ranks = sum(min(layer.shape) for layer in layers)
    entries = sum(math.prod(layer.shape) for layer in layers)
    norms = (1000 / clocks.every) * (4 * rows + ROW_BYTES * len(layers))
    spectra = (1000 * clocks.burst / clocks.spectra_every) * (4 * ranks + ROW_BYTES * len(layers))
    updates = (
        1000 * clocks.burst / clocks.updates_every * 4 * entries if clocks.updates_every else 0
    )
    return Description(decisions, stages * (norms + spectra + updates) / 1e6)
