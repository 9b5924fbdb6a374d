"""Later analyses: columns beside the records, which are never rewritten."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.errors import TraceError
from optgeom.traces.files.listing import DERIVED
from optgeom.traces.files.place import Place
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.names import PartName, parse_name
from optgeom.traces.schema import KEYS, TEXT
from optgeom.traces.trace import Trace
from optgeom.traces.writing.runfile import make_folder

WRITER = "optgeom.writer"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def write_derived(trace: Trace, name: str, table: pa.Table) -> str:
    """Add a table of later analysis; metrics() joins it from the next refresh on.

    A value fills only what the records leave null or absent. Where several tables of the same
    name have a value for a cell, the last one written counts; of those that were written at once,
    always the same. In a local folder the file appears by rename; elsewhere it is made in a
    temporary folder, and uploaded to its name once it is whole.

    Args:
        trace: where to write: wherever it was opened.
        name: of the analysis: small letters, digits, - and _.
        table: all key columns, and its own. Keys as metrics() has them, `block` alone may be null.

    Returns:
        The file written: an absolute path, or a URI as it may be shown.

    Raises:
        TraceError: a key column is missing or null, the name is no name, or the place cannot be
            written.
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
    attempt = trace.info.attempts[-1].attempt if trace.info.attempts else 0
    write = _write_local if trace.place.is_local else _write_elsewhere
    return write(trace.place, f"{DERIVED}/{name}", attempt, made)


def _write_local(place: Place, folder: str, attempt: int, table: pa.Table) -> str:
    made = place.local() / folder
    make_folder(made)
    return str(_segment(made, _next(place, folder, attempt), table))


def _write_elsewhere(place: Place, folder: str, attempt: int, table: pa.Table) -> str:
    part = _next(place, folder, attempt)
    try:
        with TemporaryDirectory(prefix="optgeom-") as scratch:
            segment = _segment(Path(scratch), part, table)
            path, data = f"{folder}/{segment.name}", segment.read_bytes()
    except (OSError, TraceError) as error:
        raise TraceError(
            f"{place.of(folder)} cannot be written: what is uploaded is made in a temporary folder "
            f"first, and {error}: set TMPDIR to one with room"
        ) from error
    place.write(path, data)
    return place.of(path)


def _next(place: Place, folder: str, attempt: int) -> PartName:
    """Behind all that are there. Writers at once may take the same sequence, with other digests."""
    files = (path.rpartition("/")[2] for path in place.entries(folder))
    numbers = [part.sequence for part in map(parse_name, files) if part is not None]
    return PartName(attempt, 0, max(numbers, default=-1) + 1)


def _segment(folder: Path, part: PartName, table: pa.Table) -> Path:
    """Write the one segment.

    Its footer says who wrote it, so that its digest, and with it its name, is like no other's: of
    two analyses that take the same sequence, neither may replace the file of the other.
    """
    try:
        segment = SegmentWriter(folder, part, table.schema, notes={WRITER: secrets.token_hex(16)})
        try:
            segment.write(table)
            return segment.seal()
        except BaseException:
            segment.abandon()
            raise
    except OSError as error:
        raise TraceError(f"{folder} cannot be written: {error.strerror or error}") from error
