"""From what layers show to one finding: the worst first, and a sentence that names a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding, Severity
from optgeom.geometry.diagnosis.seen import Seen

EVIDENCE = 5
"""Values that a finding shows at most."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One layer that shows something.

    Attributes:
        layer: Its place.
        steps: The captures that show it.
        evidence: Its value at the worst of them, and what else belongs to it.
        badness: Larger is worse.
    """

    layer: int
    steps: Sequence[int]
    evidence: tuple[Evidence, ...]
    badness: float


def finding(
    seen: Seen,
    rule: str,
    severity: Severity,
    title: str,
    hits: Sequence[Hit],
    *,
    cause: str,
    advice: str,
) -> Finding:
    """One finding from the layers that show it.

    Args:
        seen: The run.
        rule: Its name.
        severity: How bad.
        title: A sentence.
        hits: At least one.
        cause: What it most likely comes from.
        advice: What to try.
    """
    worst = sorted(hits, key=lambda one: -one.badness)
    steps = sorted({int(step) for one in hits for step in one.steps})
    places = sorted({one.layer for one in hits})
    evidence = [one for hit in worst for one in hit.evidence][:EVIDENCE]
    layers = tuple(seen.layers[place].name for place in places)
    return Finding(rule, severity, title, layers, tuple(steps), tuple(evidence), cause, advice)


def named(seen: Seen, hits: Sequence[Hit]) -> str:
    """Layers in words: the worst by name, and how many there are beside it."""
    worst = max(hits, key=lambda one: one.badness)
    name, others = seen.layers[worst.layer].name, len({one.layer for one in hits}) - 1
    return f"{name} and {others} other layer{'s' * (others > 1)}" if others else name


def span(values: Sequence[float], digits: int = 2) -> str:
    """A value, or the reach of several: "0.2", "0.2 to 0.31".

    >>> span([0.31, 0.2]), span([3.0])
    ('0.2 to 0.31', '3')
    """
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def middle(values: Sequence[float]) -> float:
    """The median, of at least one value."""
    return float(np.median(np.asarray(values, np.float64)))


def nearest(steps: Sequence[int], values: Sequence[float]) -> tuple[int, float]:
    """The step whose value is nearest to the median, and that value."""
    found = np.asarray(values, np.float64)
    at = int(np.abs(found - np.median(found)).argmin())
    return int(steps[at]), float(found[at])


def plural(count: int, word: str) -> str:
    """A count and its noun.

    >>> plural(1, "layer"), plural(2, "layer")
    ('1 layer', '2 layers')
    """
    return f"{count:,} {word}{'s' * (count != 1)}"
