"""A trace's tables as one file for others: CSV, JSON lines or Parquet.

Records stay what they are; this writes a copy of what a reader shows of them: the newest attempt of
each step, blocks put together. It goes through the trace a window at a time, so that the file may
be larger than memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from optgeom.traces.errors import NotCaptured, TraceError
from optgeom.traces.files.address import is_uri, masked
from optgeom.traces.keeping.export_rows import (
    EXPORTED,
    Chosen,
    Rows,
    joined_rows,
    list_rows,
    long_form,
    scalar_rows,
)
from optgeom.traces.keeping.export_text import CsvFile, JsonLines, ParquetFile, Sink
from optgeom.traces.names import temporary
from optgeom.traces.reading.asked import Names, Steps, names_in
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.trace import Trace

SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the file, absolute; empty where it was written to an open file.
        rows: without the header.
        columns: their names, in order.
    """

    path: str
    rows: int
    columns: tuple[str, ...]


def export(
    trace: Trace,
    to: str | os.PathLike[str] | TextIO,
    *,
    table: str = "joined",
    steps: Steps = None,
    layers: Names = None,
    stages: Names = None,
    overwrite: bool = False,
) -> Exported:
    """Write one table of a trace to one file.

    Args:
        trace: where from.
        to: a local file that ends in .csv, .jsonl or .parquet; or a text file that is open for
            writing, which gets CSV. The file appears once it is whole.
        table: joined: what trace.metrics() returns. metrics: the records of that table alone.
            spectra, neurons: the singular values or the row norms of each cell: in CSV a row per
            number, under `index` and `singular_value` (0 is the largest) or `neuron` and
            `neuron_norm`, elsewhere a row per cell with a list. scalars: step, name and value.
        steps: one step or several that must be there; a range or slice takes what lies in it.
        layers: a layer's name or several.
        stages: a stage or several.
        overwrite: replace a file that is there.

    Raises:
        TraceError: the table or the suffix is none of these, the file is there already or cannot
            be written, or the format has no way to hold a column.
        NotCaptured: a step, layer or stage is not there; the message names what is.
    """
    if table not in EXPORTED:
        raise TraceError(f"no table {table!r} can be exported: pass one of {', '.join(EXPORTED)}")
    chosen = _chosen(trace, table, steps, layers, stages)
    files = TraceFiles(trace.place, trace.cache)
    if not isinstance(to, (str, os.PathLike)):
        return _write(_rows(files, table, chosen, long=True), CsvFile(to), "")
    target = _target(to, overwrite)
    rows = _rows(files, table, chosen, long=target.suffix == ".csv")
    with _appearing(target) as made, _sink(made, target.suffix, rows.schema) as sink:
        return _write(rows, sink, str(target))


def _target(to: str | os.PathLike[str], overwrite: bool) -> Path:
    text = os.fspath(to)
    if is_uri(text):
        raise TraceError(
            f"exports are written to local files, not to {masked(text)}: write a file and copy it"
        )
    path = Path(text).absolute()
    if path.suffix not in SUFFIXES:
        raise TraceError(
            f"{text!r} says no format: give the file a name that ends in {', '.join(SUFFIXES)}"
        )
    if path.exists() and not overwrite:
        raise TraceError(f"{path} is there already: choose another name, or pass overwrite=True")
    return path


def _chosen(trace: Trace, table: str, steps: Steps, layers: Names, stages: Names) -> Chosen:
    if table == "scalars" and (layers is not None or stages is not None):
        raise TraceError("scalars belong to steps, not to layers and stages: leave those out")
    for name in names_in(layers or ()):
        trace.steps(name, None)  # raises, and names those most like it
    there = trace.stages
    for name in names_in(stages or ()):
        if name not in there:
            raise NotCaptured(
                f"no stage {name!r} was captured in {trace.path}: "
                f"there is {', '.join(there) or 'no stage at all'}"
            )
    return Chosen(
        steps,
        None if layers is None else frozenset(names_in(layers)),
        None if stages is None else frozenset(names_in(stages)),
    )


def _rows(files: TraceFiles, table: str, chosen: Chosen, *, long: bool) -> Rows:
    if table == "scalars":
        return scalar_rows(files, chosen)
    if table in ("joined", "metrics"):
        return joined_rows(files, chosen, only=None if table == "joined" else table)
    rows = list_rows(files, table, chosen)
    return long_form(rows) if long else rows


def _write(rows: Rows, sink: Sink, path: str) -> Exported:
    count = 0
    sink.begin(rows.schema)
    for part in rows.tables:
        sink.write(part)
        count += part.num_rows
    return Exported(path, count, tuple(rows.schema.names))


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A file beside the target that takes its place at the end, or goes if anything fails."""
    made = target.with_name(temporary(target.name))
    try:
        try:
            yield made
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise TraceError(f"{target} cannot be written: {error.strerror or error}") from error


@contextmanager
def _sink(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Sink]:
    if suffix == ".parquet":
        with ParquetFile(path, schema) as sink:
            yield sink
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        yield CsvFile(file) if suffix == ".csv" else JsonLines(file)
