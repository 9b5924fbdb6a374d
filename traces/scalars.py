"""The table of scalars: of the same step and name, one value is shown."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from optgeom.traces.parts import PartTable, one_chunk
from optgeom.traces.schema import TEXT

SHOWN = pa.schema([("step", pa.int64()), ("name", TEXT), ("value", pa.float64())])


def newest_scalars(table: PartTable, name: str | None) -> pa.Table:
    """Step, name and value, by name and step.

    Args:
        table: the scalars.
        name: only this one; None: all.

    Returns:
        Of several values for a step and name: the newest attempt's, of those the lowest rank's,
        and of those the last.
    """
    whole = table.table()
    if whole is None or whole.num_rows == 0:
        return SHOWN.empty_table()
    ranks = [np.full(part.table.num_rows, part.name.rank) for part in table.parts]
    rank, row = np.concatenate(ranks), np.arange(whole.num_rows)
    steps, attempts = (whole.column(key).to_numpy() for key in ("step", "attempt"))
    kept = np.ones(len(steps), bool)
    words = one_chunk(whole.select(["name"])).column("name").chunk(0)
    by_name = np.argsort(np.argsort(words.dictionary.to_pylist()))
    names = by_name[words.indices.to_numpy()]
    if name is not None:
        wanted = [by_name[i] for i, one in enumerate(words.dictionary.to_pylist()) if one == name]
        kept &= np.isin(names, wanted)
    order = np.lexsort((row, -rank, attempts, steps, names))
    order = order[kept[order]]
    last = np.append(
        (steps[order][1:] != steps[order][:-1]) | (names[order][1:] != names[order][:-1]), True
    )[: len(order)]
    shown = whole.select(SHOWN.names).take(pa.array(order[last]))
    return one_chunk(shown.cast(SHOWN))
