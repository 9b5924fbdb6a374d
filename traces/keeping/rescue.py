"""What is whole of a damaged file, written as a segment in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.files.place import Place
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.footer import INDEX, SUMS, Footer
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.names import PartName
from optgeom.traces.schema import TEXT

_OF_THE_WRITER = frozenset({SUMS, INDEX, b"ARROW:schema", b"optgeom.schema"})


def rescue_segment(
    place: Place, path: str, name: PartName, footer: Footer, groups: Sequence[int]
) -> Path:
    """Write the whole row groups of a segment to one of the same sequences.

    What is written is the same each time: whoever is killed behind it writes it over.

    Args:
        place: the trace's folder, a local one.
        path: of the damaged segment, within it.
        name: what its name says.
        footer: its own.
        groups: the numbers of the row groups that are whole; one at least.

    Raises:
        OSError: it cannot be written.
    """
    schema = footer.schema.remove_metadata()
    raw = any(pa.types.is_binary(one.type) for one in schema)
    notes = {
        key.decode(): value.decode()
        for key, value in (footer.metadata.metadata or {}).items()
        if key not in _OF_THE_WRITER
    }
    segment = _begin(place, path, name, schema, raw=raw, notes=notes)
    try:
        with place.open(path) as file:
            for group in groups:
                found = Segment(file, place.of(path), name.digest, footer=footer).read([group])
                segment.write(one_chunk(found.cast(schema)))
        return segment.seal()
    except BaseException:
        segment.abandon()
        raise


def rescue_stream(
    place: Place, path: str, name: PartName, batches: Sequence[pa.RecordBatch]
) -> Path:
    """Write the whole batches of a stream as the segment that it would have become.

    Args:
        place: the trace's folder, a local one.
        path: of the damaged stream, within it.
        name: what its name says.
        batches: those that are whole; one at least.

    Raises:
        OSError: it cannot be written.
    """
    table = pa.Table.from_batches(batches)
    schema = pa.schema(
        [
            pa.field(one.name, TEXT if pa.types.is_string(one.type) else one.type)
            for one in table.schema
        ]
    )
    segment = _begin(place, path, name, schema, raw=False, notes={})
    try:
        segment.write_sorted(one_chunk(table.cast(schema)))
        return segment.seal()
    except BaseException:
        segment.abandon()
        raise


def _begin(
    place: Place,
    path: str,
    name: PartName,
    schema: pa.Schema,
    *,
    raw: bool,
    notes: Mapping[str, str],
) -> SegmentWriter:
    folder = place.local() / path.rpartition("/")[0]
    return SegmentWriter(folder, replace(name, digest=""), schema, raw=raw, notes=notes)
