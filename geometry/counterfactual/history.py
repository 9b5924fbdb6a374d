"""From which captured steps a second moment can be known: the run's own, its start, or a burst."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from optgeom.traces.info import AttemptInfo

How = Literal["recorded", "start", "burst", "short"]


class Basis(NamedTuple):
    """What the second moment of one captured step rests on.

    Attributes:
        how: "recorded": the run recorded it, here or earlier in the same row of steps; "start":
            every step since the run's first is there, where it is zero; "burst": enough
            consecutive steps for the unknown start to have faded; "short": too few.
        steps: How many steps it has been averaging, this one included; since the row of steps
            began, unless the start is known.
        begins: Whether the step before is not there, so that nothing is carried over from it.
    """

    how: How
    steps: int
    begins: bool

    @property
    def known(self) -> bool:
        """Whether what depends on it can be computed."""
        return self.how != "short"


def bases(
    captured: Mapping[int, int],
    recorded: Collection[int],
    needed: int,
    attempts: Sequence[AttemptInfo],
) -> dict[int, Basis]:
    """What the second moment rests on at every captured step of a layer.

    Args:
        captured: Attempt by step, of what enters the rule.
        recorded: Steps at which the run recorded the second moment after the step.
        needed: Consecutive steps for a burst.
        attempts: Of the run.

    Returns:
        By step, ascending.
    """
    found: dict[int, Basis] = {}
    last: tuple[int, int] | None = None
    count, origin = 0, ""
    for step, attempt in sorted(captured.items()):
        follows = last is not None and _follows(last, (step, attempt), attempts)
        if not follows:
            count, origin = 0, "start" if step == 0 else ""
        count += 1
        if step in recorded:
            origin = "recorded"
        how: How = "burst" if count >= needed else "short"
        if origin:
            how = "recorded" if origin == "recorded" else "start"
        found[step] = Basis(how, count, not follows)
        last = (step, attempt)
    return found


def applied_at(found: Mapping[int, Basis], wanted: Collection[int]) -> set[int]:
    """The steps at which a rule has to be applied for the wanted ones to be known.

    Args:
        found: What `bases` gave.
        wanted: Some of its steps.
    """
    needed: set[int] = set()
    carried = False
    for step, basis in sorted(found.items(), reverse=True):
        if carried or (step in wanted and basis.known):
            needed.add(step)
            carried = not basis.begins
        else:
            carried = False
    return needed


def _follows(last: tuple[int, int], now: tuple[int, int], attempts: Sequence[AttemptInfo]) -> bool:
    """Whether a captured step went on from the one captured before it."""
    (step, attempt), (next_step, later) = last, now
    if next_step != step + 1:
        return False
    starts = [one.start_step for one in attempts if attempt < one.attempt <= later]
    return later >= attempt and all(step < start for start in starts)
