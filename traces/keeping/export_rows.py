"""The rows of an export, a window at a time: what a reader shows, in bounded memory.

Wide tables come by step, and of each file only what lies in the window at work is kept. Lists come
by layer, stage and step, as they lie in the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from optgeom.traces.batches import integers
from optgeom.traces.columns import numbers, one_array, one_chunk
from optgeom.traces.reading.asked import Steps, in_steps, stage_rank
from optgeom.traces.reading.cells import CellIndex, Mask, Newest, both, kept_rows
from optgeom.traces.reading.cells import Rows as CellRows
from optgeom.traces.reading.joined import join
from optgeom.traces.reading.keys import Codes
from optgeom.traces.reading.matrices import neuron_count, neuron_norms
from optgeom.traces.reading.part import Floats, Part
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import FLOATS, KEYS, OPEN_TABLES, TEXT

EXPORTED = ("joined", "metrics", "spectra", "neurons", "scalars")
WINDOW = 1 << 15
_ITEMS = 1 << 20
_UNKNOWN = 1 << 13
_SINGULAR, _NORMS = "singular_values", "neuron_norms"
_LISTS = {"spectra": _SINGULAR, "neurons": _NORMS}
_WORDS = {"spectra": ("spectrum_status", "spectrum_method"), "neurons": ()}
_LONG = {_SINGULAR: ("index", "singular_value"), _NORMS: ("neuron", "neuron_norm")}

Numbered = tuple[int, int, Floats | None]
"""The part and the row of a cell's last row, and its list."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was asked for; None: all."""

    steps: Steps = None
    layers: frozenset[str] | None = None
    stages: frozenset[str] | None = None

    def steps_of(self, there: Codes, path: str) -> Codes:
        """The chosen ones of some steps, ascending and once each.

        Raises:
            NotCaptured: a step that must be there is not.
        """
        there = np.unique(there)
        return there if self.steps is None else there[in_steps(there, self.steps, path)]

    def rows(self, part: Part, steps: Codes, newest: Newest | None) -> Mask | None:
        """Which rows of a part are wanted, (n,); None: all.

        Args:
            part: of a table of cells.
            steps: the chosen ones.
            newest: hides rows of superseded attempts.
        """
        kept = both(kept_rows(part.keys, newest), np.isin(part.keys["step"][:], steps))
        words = part.source.vocabulary
        for name, wanted in (("layer", self.layers), ("stage", self.stages)):
            if wanted is not None:
                kept = both(kept, np.isin(part.keys[name][:], [words.find(one) for one in wanted]))
        return kept


@dataclass(frozen=True, slots=True)
class Rows:
    """Tables of one schema, made as they are taken."""

    schema: pa.Schema
    tables: Iterable[pa.Table]


def scalar_rows(files: TraceFiles, chosen: Chosen) -> Rows:
    """Step, name and value, by name and step."""
    table = files.scalars().table
    if chosen.steps is not None:
        steps = numbers(one_array(table.column("step")))
        table = table.filter(pa.array(in_steps(steps, chosen.steps, files.place.shown)))
    return Rows(table.schema, [table])


def joined_rows(
    files: TraceFiles, chosen: Chosen, *, only: str | None = None, window: int = WINDOW
) -> Rows:
    """What trace.metrics() returns: by step, layer and stage.

    Args:
        files: of the trace.
        chosen: which rows.
        only: metrics alone, without what other tables have of its cells; None: all tables.
        window: how many rows are joined at once; more only where one step has more.
    """
    names = (*OPEN_TABLES, *files.derived_tables()) if only is None else (only,)
    tables = files.tables(names)
    newest = files.newest()
    fields = dict(KEYS)
    for one in tables:
        fields = {**one.types, **fields}
    order = dict.fromkeys([*KEYS, *(name for one in tables for name in one.types)])
    schema = pa.schema([pa.field(name, fields[name]) for name in order if name != _SINGULAR])
    layers = [layer.name for layer in files.info.layers]

    def windows() -> Iterator[pa.Table]:
        parts = [part for one in tables for part in one.parts]
        there = [np.empty(0, np.int64), *(_steps(one, newest) for one in parts)]
        steps = chosen.steps_of(np.concatenate(there), files.place.shown)
        held: list[_Held] = []

        def hold() -> None:
            """The files as they are: a compaction may have replaced those of the last window."""
            held[:] = [_Held(one.parts, chosen, steps, newest) for one in files.tables(names)]

        hold()
        for low, high in [*_windows(parts, steps, window)]:

            def read(low: int = low, high: int = high) -> pa.Table:
                within = [found for one in held if (found := one.between(low, high)) is not None]
                made = join(within, schema, files.vocabulary, layers=layers, newest=None)
                return one_chunk(made.table.select(schema.names).cast(schema))

            yield files.anew(read, hold)

    return Rows(schema, windows())


class _Held:
    """The rows of a table's files that lie around the window at work."""

    def __init__(self, parts: Sequence[Part], chosen: Chosen, steps: Codes, newest: Newest | None):
        self._parts, self._chosen, self._steps, self._newest = parts, chosen, steps, newest
        self._tables: dict[int, tuple[pa.Table, Codes]] = {}

    def between(self, low: int, high: int) -> pa.Table | None:
        """The rows of some steps; windows come in order, and none comes again."""
        found = []
        for number, part in enumerate(self._parts):
            values = part.keys["step"].values
            if not len(values) or values[-1] < low:
                self._tables.pop(number, None)
            elif values[0] <= high:
                if number not in self._tables:
                    self._tables[number] = self._load(part)
                table, steps = self._tables[number]
                found.append(table.filter(pa.array((steps >= low) & (steps <= high))))
        return one_chunk(pa.concat_tables(found, promote_options="default")) if found else None

    def _load(self, part: Part) -> tuple[pa.Table, Codes]:
        table = part.columns([name for name in part.types if name != _SINGULAR])
        kept, steps = self._chosen.rows(part, self._steps, self._newest), part.keys["step"][:]
        return (table, steps) if kept is None else (table.filter(pa.array(kept)), steps[kept])


def _steps(part: Part, newest: Newest | None) -> Codes:
    """The steps of the rows of the newest attempts."""
    steps, kept = part.keys["step"], kept_rows(part.keys, newest)
    places = steps.places if kept is None else steps.places[kept]
    found: Codes = steps.values[np.bincount(places, minlength=len(steps.values)) > 0]
    return found


def _windows(parts: Sequence[Part], steps: Codes, rows: int) -> Iterator[tuple[int, int]]:
    """The first and the last step of each window."""
    counts = np.zeros(len(steps), np.int64)
    for part in parts:
        column = part.keys["step"]
        number = np.bincount(column.places, minlength=len(column.values))
        wanted = np.isin(column.values, steps)
        counts[np.searchsorted(steps, column.values[wanted])] += number[wanted]
    start = taken = 0
    for at, count in enumerate(counts.tolist()):
        if at > start and taken + count > rows:
            yield int(steps[start]), int(steps[at - 1])
            start, taken = at, 0
        taken += count
    if len(steps):
        yield int(steps[start]), int(steps[-1])


def list_rows(files: TraceFiles, table: str, chosen: Chosen) -> Rows:
    """The lists of a table's cells, a row per cell: by layer (in the model's order), stage, step.

    Args:
        files: of the trace.
        table: spectra or neurons, whose norms are put together from their blocks.
        chosen: which rows.
    """
    index, words = files.index(table), files.vocabulary.words
    steps = chosen.steps_of(index.steps(None, None), files.place.shown)
    steps_set = set(steps.tolist())
    order = {layer.name: number for number, layer in enumerate(files.info.layers)}
    shapes = {layer.name: layer.shape for layer in files.info.layers}
    pairs = [
        (order.get(words[layer], len(order)), words[layer], stage_rank(words[stage]), layer, stage)
        for layer, stage in index.pairs
        if (chosen.layers is None or words[layer] in chosen.layers)
        and (chosen.stages is None or words[stage] in chosen.stages)
    ]
    fields = {**KEYS, **dict.fromkeys(_WORDS[table], TEXT), _LISTS[table]: FLOATS}

    def values(index: CellIndex, rows: CellRows, layer: str) -> Floats | None:
        if table == "spectra":
            *_, (number, row) = rows
            return index.parts[number].list_at(_SINGULAR, row)
        known = shapes.get(layer)
        length = neuron_count(index.parts, rows) if known is None else known[0]
        return neuron_norms(index.parts, rows, length)

    def tables() -> Iterator[pa.Table]:
        for _, name, _, layer, stage in sorted(pairs):
            wanted = [step for step, _ in index.rows(layer, stage).by_step() if step in steps_set]
            at_once = max(1, min(WINDOW, _ITEMS // max(shapes.get(name, (_UNKNOWN, 0)))))
            for start in range(0, len(wanted), at_once):
                some = wanted[start : start + at_once]

                def read(
                    name: str = name, layer: int = layer, stage: int = stage, some: list[int] = some
                ) -> pa.Table:
                    now = files.index(table)  # a compaction may have replaced what was read before
                    there = now.rows(layer, stage)
                    found = [(there.at(step), values(now, there.at(step), name)) for step in some]
                    cells = [(int(at.parts[-1]), int(at.rows[-1]), one) for at, one in found]
                    return _listed(now, table, cells)

                yield files.anew(read)

    return Rows(pa.schema(list(fields.items())), tables())


def _listed(index: CellIndex, table: str, cells: Sequence[Numbered]) -> pa.Table:
    parts, rows = (np.array(one) for one in zip(*((one[:2]) for one in cells), strict=True))
    names = [*KEYS]
    found, order = [], []
    for number in np.unique(parts).tolist():
        mine, part = np.flatnonzero(parts == number), index.parts[number]
        # few columns at a time: those a part keeps in the cache
        columns = [part.columns(some) for some in (names[:4], names[4:], _WORDS[table]) if some]
        whole = pa.table({name: one.column(name) for one in columns for name in one.schema.names})
        found.append(whole.take(integers(rows[mine], pa.int64())))
        order.append(mine)
    back = np.argsort(np.concatenate(order))
    keys = one_chunk(pa.concat_tables(found)).take(integers(back, pa.int64()))
    lists = [values for *_, values in cells]
    sizes = [0 if one is None else len(one) for one in lists]
    items = np.concatenate([np.empty(0, np.float32), *(one for one in lists if one is not None)])
    column = pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *sizes]), pa.int32()),
        pa.array(items, pa.float32()),
        mask=pa.array([one is None for one in lists]),
    )
    return keys.append_column(_LISTS[table], column)


def long_form(rows: Rows) -> Rows:
    """A row per number of a list, its place from 0 before it; a null list is one row without."""
    name = rows.schema.names[-1]
    place, value = _LONG[name]
    keys = rows.schema.remove(len(rows.schema) - 1)
    schema = keys.append(pa.field(place, pa.int32())).append(pa.field(value, pa.float64()))

    def long(table: pa.Table) -> pa.Table:
        lists = one_array(one_chunk(table).column(name))
        sizes = np.diff(numbers(lists.offsets))
        repeats = np.maximum(sizes, 1)
        starts = np.cumsum(repeats) - repeats
        empty = np.zeros(int(repeats.sum()), bool)
        empty[starts[sizes == 0]] = True
        places = np.arange(len(empty)) - np.repeat(starts, repeats)
        items = np.zeros(len(empty))
        items[~empty] = numbers(lists.flatten())
        every = integers(np.repeat(np.arange(len(sizes)), repeats), pa.int64())
        made = table.select(keys.names).take(every)
        for column, kind in ((places, pa.int32()), (items, pa.float64())):
            field = schema.field(len(made.schema))
            made = made.append_column(field, pa.array(column, kind, mask=empty))
        return made

    return Rows(schema, (long(table) for table in rows.tables))
