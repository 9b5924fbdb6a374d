"""Read everything a trace holds, and say which files are damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from optgeom.traces.checked import Segment
from optgeom.traces.errors import DamagedTrace, TraceError
from optgeom.traces.info import RUN_FILE
from optgeom.traces.listing import DERIVED, trace_entries
from optgeom.traces.names import TEMPORARY, PartName, parse_name
from optgeom.traces.place import Place, find
from optgeom.traces.schema import TABLES
from optgeom.traces.trace import Trace, open_trace
from optgeom.traces.wal import read_stream


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that verify found.

    Attributes:
        file: relative to the trace.
        damaged: records are lost or in doubt; otherwise it is only worth knowing.
        message: one line.
    """

    file: str
    damaged: bool
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What verify read, and what it found."""

    files: int
    bytes: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing is damaged."""
        return not any(one.damaged for one in self.findings)


def verify(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read every byte of every file of a trace, with every checksum.

    Args:
        path: the trace's folder or URI.
        progress: called with the number of files read, and of all.

    Raises:
        NotATrace: there is no run.json.
        SchemaTooNew: a newer optgeom wrote it.
    """
    place = find(path)
    trace: Trace | None = None
    findings: list[Finding] = []
    try:
        trace = open_trace(path)
    except DamagedTrace as error:
        findings.append(Finding(RUN_FILE, True, str(error)))
    entries = trace_entries(place)
    parts = {file: name for file in entries if (name := _part(file)) is not None}
    sealed = {(_folder(file), name.slot) for file, name in parts.items() if name.digest}
    rows = 0
    for count, (file, name) in enumerate(sorted(parts.items()), start=1):
        if not name.digest and (_folder(file), name.slot) in sealed:
            findings.append(Finding(file, False, "sealed already: it may be removed"))
        else:
            try:
                rows += _read(place, file, name)
            except DamagedTrace as error:
                findings.append(Finding(file, True, str(error)))
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
    return Report(len(parts) + 1, size, rows, tuple(findings))


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


def _read(place: Place, file: str, name: PartName) -> int:
    shown = place.of(file)
    if not name.digest:
        sums = f"{_folder(file)}/{name.sums}"
        if not place.has(sums):
            raise DamagedTrace(f"{shown} is damaged: the .sums file beside it is missing")
        batches, _ = read_stream(place.read(file), place.read(sums), shown)
        return sum(batch.num_rows for batch in batches)
    with place.open(file) as opened:
        segment = Segment(opened, shown, name.digest)
        return sum(segment.read([group]).num_rows for group in segment.groups)


def _part(file: str) -> PartName | None:
    folder = _folder(file)
    return (
        parse_name(file.rpartition("/")[2]) if folder.split("/")[0] in (*TABLES, DERIVED) else None
    )


def _folder(file: str) -> str:
    return file.rpartition("/")[0]
