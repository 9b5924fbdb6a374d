"""What became of a stream that somebody sealed although its writer lives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import find
from optgeom.traces.format.checked import Segment
from optgeom.traces.names import PartName, parse_name


def sealed_rows(folder: Path, stream: PartName, before: Sequence[int]) -> int | None:
    """How many rows of a stream a segment holds that stands for it; None where there is none.

    Args:
        folder: the table's.
        stream: the newest of its attempt and rank.
        before: rows of each sequence before it, which a merged segment holds too.

    Returns:
        The rows; -1 where a segment stands for it that cannot be read.
    """
    names = (parse_name(one.name) for one in folder.iterdir())
    found = [one for one in names if one is not None and one.digest and one.covers(stream)]
    if not found:
        return None
    kept = max(found, key=lambda one: one.more)
    place = find(folder)
    try:
        with place.open(kept.file) as file:
            rows = int(Segment(file, place.of(kept.file), kept.digest).footer.metadata.num_rows)
    except (DamagedTrace, FileNotFoundError):
        return -1
    return rows - sum(before[kept.sequence : stream.sequence])
