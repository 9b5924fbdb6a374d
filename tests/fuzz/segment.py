"""Fuzz the reader of segments: `python -m tests.fuzz.segment CORPUS`.

The digest is made for whatever the footer is, and the checksums of row groups are not compared: a
mutation that stops at them finds nothing.
"""

from __future__ import annotations

from tests.fuzz.fuzzing import KEPT, fuzz  # first: it has what follows instrumented

# isort: split

import random

import pyarrow as pa

from optgeom.traces.columns import align
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.footer import footer_digest, read_footer
from optgeom.traces.reading.keys import CELL, Keys, Vocabulary
from optgeom.traces.schema import KEYS
from tests.traces.crafting import Craft
from tests.traces.mutations import change_segment


def read(data: bytes) -> None:
    """Read what may be a segment: its index, its row groups, and the keys."""
    file = pa.BufferReader(data)
    digest = footer_digest(read_footer(file, "x.parquet", len(data)))
    segment = Segment(file, "x.parquet", digest)
    segment.footer.index()
    table = segment.read(segment.groups)
    keys = pa.schema([(key, KEYS[key]) for key in CELL])
    Keys.of(align(table, keys, "x.parquet"), Vocabulary(), "x.parquet")
    table.to_pylist()


def change(dice: random.Random, data: bytes) -> bytes:
    """Change its structs, its pages or their headers."""
    made = Craft.of_bytes(data)
    change_segment(dice, made)
    return made.build()[0]


if __name__ == "__main__":
    Segment._compare = lambda *_: None  # type: ignore[method-assign]
    fuzz(
        read,
        {
            table: min((KEPT / table).glob("a*.parquet")).read_bytes()
            for table in ("metrics", "neurons", "spectra", "scalars", "updates")
        },
        change,
    )
