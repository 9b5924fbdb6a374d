"""What there is to compact in a trace: looked at, and nothing changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.life import Life
from optgeom.traces.files.listing import trace_entries
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.compact_merge import DamagedInput, Input
from optgeom.traces.keeping.compact_plan import LIMITS, Candidate, plan
from optgeom.traces.keeping.compacted import Left
from optgeom.traces.names import TEMPORARY, PartName, parse_name, superseded
from optgeom.traces.schema import TABLES, key_types

Entries = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Replaced:
    """Files that another stands for.

    Attributes:
        by: the segment that counts.
        files: those that do not; checksums follow their stream.
    """

    by: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """Neighbours that become one segment; streams among them are sealed first."""

    table: str
    parts: tuple[Candidate, ...]

    @property
    def name(self) -> PartName:
        """Of the segment, without its digest."""
        first, last = self.parts[0].name, self.parts[-1].name
        return PartName(first.attempt, first.rank, first.sequence, "", last.last - first.sequence)


@dataclass(slots=True)
class Survey:
    """What there is to do.

    Attributes:
        entries: the files of the trace, without those that are being written.
        replaced: see Replaced.
        orphans: checksums whose stream has gone.
        streams: path -> name, of processes that have ended.
        merges: see Merge.
        left: what stays as it is, and why.
    """

    entries: Entries
    replaced: list[Replaced] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    streams: dict[str, PartName] = field(default_factory=dict)
    merges: list[Merge] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def todo(self) -> int:
        """How many parts there are to deal with."""
        return len(self.streams) + sum(len(one.parts) for one in self.merges)

    @property
    def files_after(self) -> int:
        """How many files there will be."""
        gone = sum(len(one.files) for one in self.replaced) + len(self.orphans)
        # one segment is made of a stream and the checksums beside it
        gone += len(self.streams)
        gone += sum(len(one.parts) - 1 for one in self.merges)
        return len(self.entries) - gone


def survey(place: Place, info: RunInfo) -> Survey:
    """Look at every file of a trace, and read the footers of its segments.

    Raises:
        TraceError: an object store does not answer.
    """
    entries = files_of(place)
    life = Life(place, info, entries)
    found = Survey(entries)
    for table in TABLES:
        _survey_table(place, table, life, found)
    return found


def _survey_table(place: Place, table: str, life: Life, found: Survey) -> None:
    entries = found.entries
    files = {path.rpartition("/")[2] for path in entries if path.startswith(f"{table}/")}
    names = {name for file in files if (name := parse_name(file)) is not None}
    gone = superseded({name: entries[f"{table}/{name.file}"].size for name in names})
    replaced: dict[PartName, list[str]] = defaultdict(list)
    for name, kept in sorted(gone.items()):
        if name.digest or not life.of(name):
            its = (name.file, name.sums) if not name.digest else (name.file,)
            replaced[kept] += [f"{table}/{file}" for file in its if file in files]
    found.replaced += [
        Replaced(f"{table}/{kept.file}", tuple(others)) for kept, others in replaced.items()
    ]
    for file in files:
        stream = parse_name(file.replace(".sums", ".arrows")) if file.endswith(".sums") else None
        if stream is not None and stream not in names and not life.of(stream):
            found.orphans.append(f"{table}/{file}")
    groups: dict[tuple[int, int], list[Candidate]] = defaultdict(list)
    for name in sorted(names - gone.keys()):
        path = f"{table}/{name.file}"
        try:
            one = _candidate(place, path, name, life, found)
        except DamagedInput as error:
            found.left.append(Left(path, str(error), True))
            continue
        if one is not None:
            groups[name.attempt, name.rank].append(one)
    for candidates in groups.values():
        found.merges += [Merge(table, parts) for parts in plan(candidates, LIMITS[table])]


def _candidate(
    place: Place, path: str, name: PartName, life: Life, found: Survey
) -> Candidate | None:
    if name.digest:
        return candidate(place, path, name)
    why = life.of(name)
    if why:
        found.left.append(Left(path, why, False))
        return None
    found.streams[path] = name
    return Candidate(name, found.entries[path].size)


def candidate(place: Place, path: str, name: PartName) -> Candidate | None:
    """A segment as something to merge; None where it has no rows, or has just gone.

    Raises:
        DamagedInput: its footer changed, or lacks a column that every record has.
    """
    try:
        one = Input(place, path, name)
    except FileNotFoundError:
        return None
    missing = {*key_types(path.partition("/")[0])}.difference(one.schema.names)
    if missing:
        error = DamagedTrace(f"{place.of(path)} lacks the column {min(missing)}")
        raise DamagedInput(path, error)
    if not one.rows:
        return None
    return Candidate(name, one.size, one.rows, len(one.ends), int(one.bytes.max()), one.schema)


def files_of(place: Place) -> dict[str, Entry]:
    """The files of a trace by relative path, without those that are being written.

    Raises:
        TraceError: an object store does not answer.
    """
    return {
        path: entry
        for path, entry in trace_entries(place).items()
        if not path.rpartition("/")[2].startswith(TEMPORARY)
    }
