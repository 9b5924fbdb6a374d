"""One table as a reader follows it, as files come.

Streams are short, and are kept in memory; of segments, which may be many gigabytes, the keys are
kept, and columns and lists are read when they are asked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.files.place import Entry
from optgeom.traces.names import PartName, parse_name, superseded
from optgeom.traces.reading.part import Part, Source
from optgeom.traces.reading.sealed import SealedPart
from optgeom.traces.reading.stream import StreamPart
from optgeom.traces.schema import TABLES

_AT_ONCE = 16


class PartTable:
    """All parts of one table.

    Args:
        source: what all tables of the trace share.
        folder: the table's folder within the trace's.
        schema: missing columns become nulls; None: the files' own.
    """

    def __init__(self, source: Source, folder: str, schema: pa.Schema | None):
        self._source = source
        self._schema = schema
        self.folder = folder
        self.parts: tuple[Part, ...] = ()
        self._early: dict[PartName, Part] = {}

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """The columns that it has, or that any part has, in their order."""
        if self._schema is not None:
            return {field.name: field.type for field in self._schema}
        return {name: kind for part in self.parts for name, kind in part.types.items()}

    def refresh(self, entries: Mapping[str, Entry]) -> None:
        """Take up what is new among the files.

        Args:
            entries: file name -> entry, of this table's folder.

        Raises:
            DamagedTrace: a file is truncated or its bytes changed.
            FileNotFoundError: a file went between the listing and now; list again.
        """
        before = self._early | {part.name: part for part in self.parts}
        names = select_parts(entries, records=self._schema is not None)
        sizes = {name: entries[name.file].size for name in names}
        found: dict[PartName, Part] = {}
        for name in names:
            if not name.digest and name.sums in entries:
                sizes[name] += entries[name.sums].size
            if name in before and before[name].size == sizes[name]:
                found[name] = before[name]
        new = [name for name in names if name.digest and name not in found]
        found.update(zip(new, self._open(new, sizes), strict=True))
        for name in names:
            if name not in found and self._schema is not None:
                known = before.get(name)
                grown = known if isinstance(known, StreamPart) else None
                # as far as it was when all tables were listed: they show the same moment
                listed = entries.get(name.sums)
                upto = None if listed is None else listed.size
                found[name] = StreamPart.read(
                    self._source, name, self.folder, sizes[name], upto, self._schema, grown
                )
        self.parts = tuple(found[name] for name in names if name in found)
        self._early.clear()

    def at_step(self, written: Sequence[Mapping[PartName, int]], step: int) -> tuple[Part, ...]:
        """The segments that hold a step, found without opening all of them.

        Each writer's segments mostly come in the order of their steps, so they are halved until
        the step is found: some of ten thousand are opened, and kept for the next question.

        Args:
            written: the segments of each writer, as `by_writer` says.
            step: that is asked for.

        Returns:
            Those that hold it; some may be missing where steps were not written in their order.

        Raises:
            DamagedTrace: as refresh.
            FileNotFoundError: as refresh.
        """
        found: list[Part] = []
        for sizes in written:

            def steps(name: PartName, sizes: Mapping[PartName, int] = sizes) -> tuple[int, int]:
                if name not in self._early:
                    (self._early[name],) = self._open([name], sizes)
                there = self._early[name].keys["step"].values
                return (int(there[0]), int(there[-1])) if len(there) else (step, step)

            own = list(sizes)
            at = bisect_right(own, step, key=lambda name: steps(name)[0]) - 1
            while at >= 0 and steps(own[at])[1] >= step:
                found.append(self._early[own[at]])
                at -= 1
        return tuple(sorted(found, key=lambda part: part.name))

    def _open(self, names: Sequence[PartName], sizes: Mapping[PartName, int]) -> list[SealedPart]:
        def read(name: PartName) -> SealedPart:
            path = f"{self.folder}/{name.file}"
            return SealedPart(self._source, name, path, sizes[name], self._schema)

        if self._source.place.is_local or len(names) < 2:
            return [read(name) for name in names]
        # an object store takes long to answer, and answers many at once
        with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:
            return list(pool.map(read, names))

    def table(self, names: Sequence[str] | None = None) -> pa.Table | None:
        """All rows, oldest attempt first; None where there is no part.

        Args:
            names: only these columns; a part that lacks one has nulls there.
        """
        if not self.parts:
            return None
        wanted = self.types if names is None else names
        tables = [part.columns([one for one in wanted if one in part.types]) for part in self.parts]
        return one_chunk(pa.concat_tables(tables, promote_options="default"))


def by_writer(entries: Mapping[str, Entry]) -> list[dict[PartName, int]]:
    """The segments of records of each attempt and rank, in order, with their sizes.

    Args:
        entries: file name -> entry, of one table's folder.
    """
    names = [name for name in select_parts(entries, records=True) if name.digest]
    return [
        {name: entries[name.file].size for name in group}
        for _, group in groupby(names, key=lambda name: (name.attempt, name.rank))
    ]


def select_parts(entries: Mapping[str, Entry], *, records: bool) -> list[PartName]:
    """Which files to read, in order.

    Args:
        entries: file name -> entry, of one table's folder.
        records: it holds records, of which a merged segment stands for others and a segment for
            the stream that it was made of; of a later analysis, every segment counts.
    """
    sizes = {name: entry.size for file, entry in entries.items() if (name := parse_name(file))}
    if not records:
        return sorted(name for name in sizes if name.digest)
    return sorted(sizes.keys() - superseded(sizes).keys())


def replaced(path: str, entries: Mapping[str, Entry]) -> bool:
    """Whether another segment stands for one that has gone.

    Args:
        path: of the segment, in the trace.
        entries: of the whole trace, by relative path.
    """
    folder, _, file = path.rpartition("/")
    gone = parse_name(file)
    if gone is None or folder not in TABLES:
        return False
    for other in entries:
        parent, _, name = other.rpartition("/")
        found = parse_name(name) if parent == folder else None
        if found is not None and found.digest and found.covers(gone):
            return True
    return False
