"""Read everything a trace holds, and say which files are damaged, and what is lost with them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from optgeom.traces.errors import DamagedTrace, NotATrace, TraceError
from optgeom.traces.files.life import Life
from optgeom.traces.files.listing import DERIVED, has_records, set_aside, trace_entries
from optgeom.traces.files.place import Entry, Place, find
from optgeom.traces.format.lost import Lost
from optgeom.traces.format.whole import check_part
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo, parse
from optgeom.traces.names import TEMPORARY, PartName, parse_name, superseded
from optgeom.traces.schema import SMALL_TABLES, TABLES, plain, table_schema
from optgeom.traces.trace import Trace, open_trace

_NO_COPY = (
    "no copy of it is there either. Put one back from a backup; the tables are read without it as "
    'docs/traces.md says under "Reading without optgeom"'
)
# what a reader says; here there is a better way
_RESTORE = re.compile(r"\. Restore it( from a copy)?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that verify found.

    Attributes:
        file: relative to the trace.
        damaged: records are lost or in doubt; otherwise it is only worth knowing.
        message: one line.
        lost: the rows that cannot be read, where the footer of a segment is whole.
        repairable: a repair of a local trace sets it aside, and keeps what is whole of it.
    """

    file: str
    damaged: bool
    message: str
    lost: Lost | None = None
    repairable: bool = False

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        lost = None if self.lost is None else self.lost.to_json()
        told = {"file": self.file, "damaged": self.damaged, "message": self.message}
        return {**told, "lost": lost, "repairable": self.repairable}


@dataclass(frozen=True, slots=True)
class Report:
    """What verify read, and what it found.

    Attributes:
        files: how many there are, run.json among them.
        bytes: theirs.
        rows: that could be read.
        findings: in the order of the files.
        set_aside: files that repairs have moved to the folder `damaged`, which were not read.
    """

    files: int
    bytes: int
    rows: int
    findings: tuple[Finding, ...]
    set_aside: int = 0

    @property
    def ok(self) -> bool:
        """Nothing is damaged."""
        return not any(one.damaged for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        found = [one.to_json() for one in self.findings]
        sizes = {"files": self.files, "bytes": self.bytes, "rows": self.rows}
        return {"ok": self.ok, **sizes, "findings": found, "set_aside": self.set_aside}


def verify(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read every byte of every file of a trace, with every checksum.

    Args:
        path: the trace's folder or URI.
        progress: called with the number of files read, and of all.

    Raises:
        NotATrace: there is no run.json, nor a copy of one, nor any file of a table.
        SchemaTooNew: a newer optgeom wrote it.
        DamagedTrace: the folder leads out of itself: nothing of it is read.
    """
    place = find(path)
    trace: Trace | None = None
    findings: list[Finding] = []
    odd: dict[str, str] = {}
    try:
        trace = open_trace(path)
    except DamagedTrace as error:
        trace_entries(place, odd)
        # it does not open either for what is odd, of which it is said below
        said = _wrong_with_run(place) if odd else str(error)
        findings += [Finding(RUN_FILE, True, said)] if said else []
    except NotATrace:
        if not place.has(RUN_COPY) and not has_records(place):
            raise
        there = f"its copy {RUN_COPY} is there" if place.has(RUN_COPY) else _NO_COPY
        findings.append(Finding(RUN_FILE, True, f"{place.of(RUN_FILE)} is missing: {there}"))
    info = None if trace is None else trace.info
    findings = _with_copy(place, findings)
    entries = trace_entries(place, odd)
    findings += [
        Finding(file, True, f"{place.of(file)} is no file but {kind}", repairable=True)
        for file, kind in sorted(odd.items())
    ]
    parts = parts_of(entries)
    gone = standing(entries)
    life = Life(place, info, entries)
    rows = 0
    for count, (file, name) in enumerate(sorted(parts.items()), start=1):
        if file in gone:
            what = f"{gone[file].rpartition('/')[2]} stands for it: it may be removed"
            findings.append(Finding(file, False, what))
        else:
            try:
                checked = check_part(place, file, name, schema_of_streams(file, info))
                rows += checked.rows
                if checked.unchecked and not checked.breaks and life.of(name):
                    # elsewhere the checksums follow the stream as an object of their own
                    findings.append(Finding(file, False, "its last rows have no checksums yet"))
                elif checked.message:
                    said = _RESTORE.sub("", checked.message)
                    said += f". Lost: {checked.lost}" if checked.lost else ""
                    findings.append(Finding(file, True, said, checked.lost, repairable=True))
            except FileNotFoundError:
                findings.append(Finding(file, False, "sealed or removed while this was read"))
        if progress is not None:
            progress(count, len(parts))
    findings += [
        Finding(file, False, "left by a writer that was killed, or at work")
        for file in entries
        if file.rpartition("/")[2].startswith(TEMPORARY)
    ]
    if trace is not None and not any(one.damaged for one in findings):
        findings += _ask(trace)
    size = sum(entry.size for entry in entries.values())
    count = len(parts) + place.has(RUN_FILE)
    return Report(count, size, rows, tuple(findings), set_aside(place))


def _wrong_with_run(place: Place) -> str:
    """What is wrong with run.json; empty: nothing."""
    try:
        parse(place.read(RUN_FILE), place.of(RUN_FILE))
    except DamagedTrace as error:
        return str(error)
    except FileNotFoundError:
        return f"{place.of(RUN_FILE)} is missing"
    return ""


def _with_copy(place: Place, found: list[Finding]) -> list[Finding]:
    """What was found at run.json, and at its copy: the one that is whole repairs the other."""
    try:
        parse(place.read(RUN_COPY), place.of(RUN_COPY))
    except FileNotFoundError:
        return found
    except DamagedTrace as error:
        return [*found, Finding(RUN_COPY, True, str(error), repairable=not found)]
    return [replace(one, repairable=True) for one in found]


def traces_at(path: str | os.PathLike[str]) -> list[str]:
    """The traces at a path: itself, or those of a folder of traces, also where run.json is gone.

    They are called as the path was typed, and begin with it; a URI holds its keys.

    Raises:
        NotATrace: there is none; the message says what is there.
    """
    place = find(path)
    if _is_trace(place):
        return [os.fspath(path)]
    below = [place.below(name) for name in place.folders() if not name.startswith(TEMPORARY)]
    found = [one.shown if one.is_local else one.uri for one in below if _is_trace(one)]
    if not found:
        open_trace(path)  # says what is there instead
    return found


def _is_trace(place: Place) -> bool:
    return place.has(RUN_FILE) or place.has(RUN_COPY) or has_records(place)


def parts_of(entries: Mapping[str, Entry]) -> dict[str, PartName]:
    """The segments and streams among the files of a trace."""
    found = {}
    for file in entries:
        folder, _, name = file.rpartition("/")
        part = parse_name(name) if folder.split("/")[0] in (*TABLES, DERIVED) else None
        if part is not None:
            found[file] = part
    return found


def standing(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Which files another one stands for, in the tables of records, and which that is."""
    found: dict[str, str] = {}
    parts = parts_of(entries)
    for table in TABLES:
        there = {name: file for file, name in parts.items() if file.startswith(f"{table}/")}
        sizes = {name: entries[file].size for name, file in there.items()}
        found |= {there[one]: there[other] for one, other in superseded(sizes).items()}
    return found


def schema_of_streams(file: str, info: RunInfo | None) -> pa.Schema | None:
    """The schema of the streams of a file's table; None where run.json does not tell."""
    table = file.split("/")[0]
    if info is None or table not in SMALL_TABLES:
        return None
    return plain(table_schema(table, info.columns))


def _ask(trace: Trace) -> list[Finding]:
    """What only the whole shows: types that do not fit run.json, cells that were written twice."""
    findings = [
        Finding(RUN_FILE, False, f"attempt {one.attempt} ended early: {one.failed}")
        for one in trace.info.attempts
        if one.failed is not None
    ]
    try:
        trace.metrics(attempts="all")
        for table in ("metrics", "spectra"):
            twice = trace.index(table).repeated()
            if twice:
                findings.append(
                    Finding(table, False, f"{twice} cells were written twice: the last is shown")
                )
    except TraceError as error:
        findings.append(Finding(RUN_FILE, True, str(error)))
    return findings
