"""What a trace loses with a row group, said by what its footer still knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.format.checked import Segment

_NAMED = 3
_KEYS = ("step", "layer", "stage")


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that cannot be read.

    Attributes:
        rows: how many.
        steps: the first and the last of their steps; None where the footer does not say.
        layers: theirs, in the order of their appearance; empty where the footer does not say.
        stages: as layers.
    """

    rows: int
    steps: tuple[int, int] | None = None
    layers: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In words.

        >>> print(Lost(75, (0, 30), ("h.0.up", "h.1.up"), ("update",)))
        75 rows: steps 0 to 30, layers h.0.up, h.1.up, stage update
        >>> print(Lost(4, (0, 0), ("a", "b", "c", "d")))
        4 rows: step 0, layers a, b, c and 1 other
        """
        said = []
        if self.steps is not None:
            first, last = self.steps
            said.append(f"step {first}" if first == last else f"steps {first} to {last}")
        for word, names in (("layer", self.layers), ("stage", self.stages)):
            if names:
                more = len(names) - _NAMED
                others = f" and {more} other{'s' if more > 1 else ''}" if more > 0 else ""
                shown = ", ".join(names[:_NAMED]) + others
                said.append(f"{word if len(names) == 1 else word + 's'} {shown}")
        rows = f"{self.rows:,} row{'s' if self.rows != 1 else ''}"
        return f"{rows}: {', '.join(said)}" if said else rows

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        steps = None if self.steps is None else list(self.steps)
        layers, stages = list(self.layers), list(self.stages)
        return {"rows": self.rows, "steps": steps, "layers": layers, "stages": stages}


def lost_with(segment: Segment, groups: Sequence[int]) -> Lost:
    """What rows some row groups have: by the index in the footer, or by their keys.

    Args:
        segment: whose footer is whole.
        groups: the numbers of those that are not.
    """
    footer = segment.footer
    starts = [int(footer.ends[one - 1]) if one else 0 for one in groups]
    sizes = [footer.metadata.row_group(one).num_rows for one in groups]
    try:
        index = footer.index()
    except DamagedTrace:
        index = None
    if index is None:
        rows = _keys(segment, groups)
    else:
        rows = pa.concat_tables(
            [index.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
        )
    if rows is None:
        return Lost(sum(sizes))
    steps = None
    if "step" in rows.schema.names and rows.num_rows:
        found = pc.min_max(rows.column("step")).as_py()
        steps = (int(found["min"]), int(found["max"]))
    layers, stages = (_words(rows, name) for name in ("layer", "stage"))
    return Lost(sum(sizes), steps, layers, stages)


def _keys(segment: Segment, groups: Sequence[int]) -> pa.Table | None:
    """The keys, if it is another column that changed: pages have checksums of their own."""
    names = [one for one in _KEYS if one in segment.footer.schema.names]
    try:
        return segment.read(groups, names, sums=False)
    except DamagedTrace:
        return None


def _words(rows: pa.Table, name: str) -> tuple[str, ...]:
    if name not in rows.schema.names:
        return ()
    return tuple(str(one) for one in rows.column(name).cast(pa.string()).unique().to_pylist())
