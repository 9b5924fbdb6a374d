"""What of a trace that is being written can be sent: numbers that nothing will change any more.

Rows of one step come at different times: norms with the next flush, spectra when they have been
measured, and those of another rank when that has come so far. Each rank writes in the order of
steps, so a layer that has a row at a later step gets none at an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from optgeom.hooks.sinks.series import Flags, Line, Steps, Values


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the look before found of a line.

    Attributes:
        steps: (k,) ascending, of what has not been sent.
        counts: (k,) of how many layers.
        since: (k,) seconds, when it was first of so many.
    """

    steps: Steps
    counts: Steps
    since: Values


@dataclass(slots=True)
class Due:
    """Of one sink: the last step sent of each line, and what waits for its last layers.

    Attributes:
        first: step of this attempt; nothing before it is sent.
        sent: the last step, by name.
        seen: what waits, by name.
    """

    first: int
    sent: dict[str, int] = field(default_factory=dict)
    seen: dict[str, _Seen] = field(default_factory=dict)

    def after(self, name: str) -> int:
        """The step after which a line has something new."""
        return max(self.sent.get(name, -1), self.first - 1)

    def of(
        self, lines: Iterable[Line], now: float, *, reached: int | None, late: float, last: bool
    ) -> list[Line]:
        """The parts of lines that are to be sent now.

        A number goes out when the look before found it of as many layers, and it has a later one
        or is older than `late`. Where layers lack a row both there and later, nobody knows whether
        one will come: then it waits until a later number has stood so long, or for the end.

        Args:
            lines: after the steps that `after` says.
            now: seconds.
            reached: the last step of this attempt so far; None: any.
            late: seconds.
            last: whether nothing comes after it.
        """
        found = []
        for line in lines:
            there = line.steps > self.after(line.name)
            if reached is not None:
                there &= line.steps <= reached
            new = _at(line, there)
            if not last:
                settled = self._settled(new, now, late)
                # in order: those after one that waits wait too
                new = _at(new, np.logical_and.accumulate(settled))
            if len(new.steps):
                found.append(new)
        return found

    def was_sent(self, lines: Sequence[Line]) -> None:
        """Remember it."""
        for line in lines:
            self.sent[line.name] = int(line.steps[-1])

    def _settled(self, line: Line, now: float, late: float) -> Flags:
        before = self.seen.get(line.name)
        since = np.full(len(line.steps), now)
        is_same = np.zeros(len(line.steps), bool)
        if before is not None and len(before.steps):
            at = np.searchsorted(before.steps, line.steps).clip(max=len(before.steps) - 1)
            is_same = (before.steps[at] == line.steps) & (before.counts[at] == line.counts)
            since[is_same] = before.since[at][is_same]
        self.seen[line.name] = _Seen(line.steps, line.counts, since)
        is_old = is_same & (now - since >= late)
        has_later = np.arange(len(line.steps)) < len(line.steps) - 1
        has_later_old = np.append(np.logical_or.accumulate(is_old[::-1])[::-1][1:], False)
        settled: Flags = (
            is_same & (has_later | is_old) & (line.is_whole | has_later_old[: len(line.steps)])
        )
        return settled


def _at(line: Line, chosen: Flags) -> Line:
    return replace(
        line,
        steps=line.steps[chosen],
        values=line.values[chosen],
        counts=line.counts[chosen],
        is_whole=line.is_whole[chosen],
    )
