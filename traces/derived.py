"""Later analyses: columns beside the records, which are never rewritten."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.errors import TraceError
from optgeom.traces.listing import DERIVED
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.runfile import make_folder
from optgeom.traces.schema import KEYS, TEXT
from optgeom.traces.segment import SegmentWriter
from optgeom.traces.trace import Trace

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def write_derived(trace: Trace, name: str, table: pa.Table) -> Path:
    """Add a table of later analysis; metrics() joins it from the next refresh on.

    A value fills only what the records leave null or absent. Where several tables of the same
    name have a value for a cell, the last one written counts.

    Args:
        trace: a local trace.
        name: of the analysis: small letters, digits, - and _.
        table: all key columns, and its own. Keys as metrics() has them, `block` alone may be null.

    Returns:
        The file written.

    Raises:
        TraceError: a key column is missing or null, the name is no name, or the folder is not
            local or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise TraceError(f"{name!r} names no analysis: use small letters, digits, - and _")
    missing = [key for key in KEYS if key not in table.schema.names]
    if missing:
        raise TraceError(
            f"a derived table needs every key column, {', '.join(missing)} is missing: "
            "take the keys from trace.metrics()"
        )
    empty = [key for key in KEYS if key != "block" and table.column(key).null_count]
    if empty:
        raise TraceError(f"a derived table has nulls in {', '.join(empty)}: every key has a value")
    fields = [pa.field(key, kind) for key, kind in KEYS.items()]
    for field in table.schema:
        if field.name not in KEYS:
            text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            fields.append(pa.field(field.name, TEXT if text else field.type))
    schema = pa.schema(fields)
    try:
        made = one_chunk(table.select(schema.names).cast(schema))
    except (pa.ArrowException, ValueError) as error:
        raise TraceError(f"a key column has another type than in the records: {error}") from error
    folder = trace.folder() / DERIVED / name
    make_folder(folder)
    numbers = [part.sequence for part in map(parse_name, map(_file, folder.iterdir())) if part]
    attempt = trace.info.attempts[-1].attempt if trace.info.attempts else 0
    part = PartName(attempt, 0, max(numbers, default=-1) + 1)
    try:
        segment = SegmentWriter(folder, part, schema)
        try:
            segment.write(made)
            return segment.seal()
        except BaseException:
            segment.abandon()
            raise
    except OSError as error:
        raise TraceError(f"{folder} cannot be written: {error.strerror or error}") from error


def _file(path: Path) -> str:
    return path.name
