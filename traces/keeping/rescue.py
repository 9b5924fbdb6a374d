"""What is whole of damaged files, written as a segment in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import one_chunk
from optgeom.traces.files.place import Place
from optgeom.traces.format.checked import Segment
from optgeom.traces.format.footer import INDEX, SUMS
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.format.whole import Checked
from optgeom.traces.keeping.same_rows import Seen, hashes
from optgeom.traces.names import PartName
from optgeom.traces.schema import sealed

_OF_THE_WRITER = frozenset({SUMS, INDEX, b"ARROW:schema", b"optgeom.schema"})


@dataclass(frozen=True, slots=True)
class Source:
    """A segment or a stream that another segment was made of.

    Attributes:
        path: of it, within the trace.
        name: what its name says.
        checked: what is whole of it.
    """

    path: str
    name: PartName
    checked: Checked


def rescue_segment(
    place: Place,
    own: Source,
    into: PartName,
    *,
    stay: Sequence[Source] = (),
    go: Sequence[Source] = (),
) -> tuple[str, int]:
    """Write the whole row groups of a segment, but for rows that are elsewhere, to another one.

    What is written is the same each time: whoever is killed behind it writes it over.

    Args:
        place: the trace's folder, a local one.
        own: the damaged segment, of which the footer and one row group at least are whole.
        into: attempt, rank and sequences of what is written, which none of `stay` has.
        stay: what it was made of that is whole, and will count: rows of these are left out.
        go: what it was made of that is damaged too: of these the rows that are nowhere else are
            added, behind the others.

    Returns:
        The path of what was written, empty where no row was left; and its rows.

    Raises:
        OSError: it cannot be written.
    """
    footer = own.checked.footer
    assert footer is not None
    schema = footer.schema.remove_metadata()
    raw = any(pa.types.is_binary(one.type) for one in schema)
    notes = {
        key.decode(): value.decode()
        for key, value in (footer.metadata.metadata or {}).items()
        if key not in _OF_THE_WRITER
    }
    segment = _begin(place, own.path, into, schema, raw=raw, notes=notes)
    rows, sources = 0, (own, *go)
    try:
        for count, source in enumerate(sources):
            elsewhere = [_seen(place, one, schema) for one in (stay, sources[:count]) if one]
            for table in _whole_of(place, source, schema):
                for seen in elsewhere:
                    table = table.filter(pa.array(seen.others(hashes(table))))
                if table.num_rows:
                    segment.write(one_chunk(table))
                    rows += table.num_rows
        if not rows:
            segment.abandon()
            return "", 0
        return f"{own.path.rpartition('/')[0]}/{segment.seal().name}", rows
    except BaseException:
        segment.abandon()
        raise


def _seen(place: Place, sources: Sequence[Source], schema: pa.Schema) -> Seen:
    found = [hashes(table) for one in sources for table in _whole_of(place, one, schema)]
    return Seen(np.concatenate([np.empty(0, np.uint64), *found]))


def _whole_of(place: Place, source: Source, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a source that are whole, a row group or a stream at a time.

    Of a source with other columns, which no compaction merges, there are none.
    """
    found, shown = source.checked, place.of(source.path)
    if found.footer is not None:
        if found.footer.schema.remove_metadata() != schema:
            return
        with place.open(source.path) as file:
            for group in found.groups:
                # of its own each, for what one takes in memory is given back
                segment = Segment(file, shown, source.name.digest, footer=found.footer)
                yield segment.read([group]).cast(schema)
    elif found.batches:
        table = pa.Table.from_batches(found.batches)
        if sealed(table.schema.remove_metadata()) == schema:
            yield table.cast(schema)


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
    schema = sealed(table.schema)
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
