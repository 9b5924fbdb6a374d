"""Which segments are merged into one: neighbours in sequence, up to a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from optgeom.traces.names import PartName

MOST = 8
"""A table's segments grow with it, so that few more than this are left however large it is."""

HELD_BYTES = 128 << 20
"""Bytes in memory of a row group of each part: as many are held while lists are merged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a merged segment holds at most.

    Attributes:
        bytes: of the segments that it is made of, where these are no more than MOST times it.
        rows: of it. Of a table with lists, all other columns are in memory when it is sealed.
        groups: its row groups, as bytes. A footer is read as a whole, and describes each.
        files: that it is made of. Those with lists are open all at once.
    """

    bytes: int
    rows: int
    groups: int
    files: int


PLAIN = Limits(64 << 20, 1 << 24, 1 << 11, 1 << 11)
LISTS = Limits(256 << 20, 1 << 18, 1 << 10, 1 << 8)
RAW = Limits(2 << 30, 1 << 20, 1 << 11, 1 << 11)
LIMITS: Mapping[str, Limits] = {
    "metrics": PLAIN,
    "spectra": LISTS,
    "neurons": LISTS,
    "updates": RAW,
    "scalars": PLAIN,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part that may be merged with its neighbours.

    Attributes:
        name: attempt, rank, sequence and digest; no digest: a stream that is sealed first.
        size: in bytes.
        rows: its rows; 0 where they are not known yet.
        groups: its row groups.
        held: bytes in memory of its largest row group.
        schema: its columns; None where they are not known yet.
    """

    name: PartName
    size: int
    rows: int = 0
    groups: int = 1
    held: int = 0
    schema: pa.Schema | None = None


def plan(candidates: Sequence[Candidate], limits: Limits) -> list[tuple[Candidate, ...]]:
    """Which candidates become one segment each.

    Args:
        candidates: of one table, attempt and rank, by sequence.
        limits: what a segment holds at most.

    Returns:
        Two or more neighbours each. Segments with a missing sequence between them, or with other
        columns, are never merged: what is missing may come back, from a copy.
    """
    most = Candidate(
        PartName(0, 0, 0),
        max(limits.bytes, sum(one.size for one in candidates) // MOST),
        limits.rows,
        max(limits.groups, sum(one.groups for one in candidates) // MOST),
        HELD_BYTES,
    )
    found: list[list[Candidate]] = []
    total: Candidate | None = None
    for one in candidates:
        joined = None if total is None else _joined(total, one)
        if joined is not None and _fits(joined, most) and len(found[-1]) < limits.files:
            found[-1].append(one)
            total = joined
        else:
            found.append([one])
            total = one
    return [tuple(one) for one in found if len(one) > 1]


def _joined(one: Candidate, other: Candidate) -> Candidate | None:
    """Both together; None where they are no neighbours, or have other columns."""
    first, last = one.name, other.name
    if first.last + 1 != last.sequence:
        return None
    if one.schema is not None and other.schema is not None and one.schema != other.schema:
        return None
    return Candidate(
        PartName(first.attempt, first.rank, first.sequence, "", last.last - first.sequence),
        one.size + other.size,
        one.rows + other.rows,
        one.groups + other.groups,
        one.held + other.held,
        one.schema or other.schema,
    )


def _fits(one: Candidate, most: Candidate) -> bool:
    return (
        one.size <= most.size
        and one.rows <= most.rows
        and one.groups <= most.groups
        and one.held <= most.held
    )
