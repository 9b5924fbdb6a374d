"""The table of scalars: of the same step and name, one value is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from optgeom.traces.batches import integers
from optgeom.traces.columns import numbers, one_array, one_chunk, validity
from optgeom.traces.reading.parts import PartTable
from optgeom.traces.schema import TEXT

SHOWN = pa.schema([("step", pa.int64()), ("name", TEXT), ("value", pa.float64())])


@dataclass(frozen=True, slots=True)
class Scalars:
    """What was logged beside the geometry.

    Attributes:
        table: step, name and value, by name and step.
        ranges: name -> its first row and the one after its last.
    """

    table: pa.Table = field(default_factory=SHOWN.empty_table)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: PartTable) -> Self:
        """From the rows of all attempts and ranks.

        Of several values for a step and name it takes the newest attempt's, of those the lowest
        rank's, and of those the last.
        """
        whole = parts.table(["attempt", *SHOWN.names])
        if whole is None or whole.num_rows == 0:
            return cls()
        column = one_array(whole.column("name"))
        words = column.dictionary.to_pylist()
        # in few bits: they are gathered several times over, and sorted by counting
        by_name = np.argsort(np.argsort(words)).astype(np.min_scalar_type(max(len(words) - 1, 0)))
        names = by_name[numbers(column.indices)]
        steps, attempts = (numbers(one_array(whole.column(key))) for key in ("step", "attempt"))
        ranks = np.concatenate([np.full(part.keys.rows, part.name.rank) for part in parts.parts])
        # most runs have one attempt and one rank: nothing to sort by
        several = [one for one in (-ranks, attempts) if one.min() < one.max()]
        if several or (steps[1:] < steps[:-1]).any():
            order = np.lexsort((*several, steps, names))
        else:
            order = np.argsort(names, kind="stable")  # by step already, as a run logs
        valid = validity(column.indices)
        if valid is not None:
            order = order[valid[order]]
        steps, names = steps[order], names[order]
        changes = (steps[1:] != steps[:-1]) | (names[1:] != names[:-1])
        last = np.append(changes, True)[: len(order)]
        kept = order[last]
        ends = np.searchsorted(names[last], np.arange(len(words) + 1))
        ranges = {
            word: (int(ends[place]), int(ends[place + 1]))
            for word, place in zip(words, by_name.tolist(), strict=True)
        }
        shown = whole.select(SHOWN.names).take(integers(kept, pa.int64()))
        return cls(one_chunk(shown.cast(SHOWN)), ranges)

    def named(self, name: str) -> pa.Table:
        """Those of one name; an empty table if it was never logged."""
        start, end = self.ranges.get(name, (0, 0))
        return self.table.slice(start, end - start)
