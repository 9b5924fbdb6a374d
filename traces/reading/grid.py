"""One column of one stage as an array: a row per captured step, a column per layer.

Arrays are made of one column's bytes alone, whatever else the files hold: pictures over all layers
and steps of a long run ask for nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import numbers, one_array, validity
from optgeom.traces.errors import TraceError
from optgeom.traces.limits import CELLS_PER_ROW, FREE_CELLS, refuse
from optgeom.traces.reading.cells import Newest, both, kept_rows
from optgeom.traces.reading.keys import Codes, words_of
from optgeom.traces.reading.part import Part
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import OPEN_TABLES

Values = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, Any]
WordCodes = np.ndarray[Any, np.dtype[np.int16]]
_MOST_WORDS = int(np.iinfo(np.int16).max)


@dataclass(frozen=True, slots=True)
class Grid:
    """One numeric column of one stage; all arrays are read-only.

    Attributes:
        steps: (k,) int64, ascending, once each.
        layers: run.json's in their order, then recorded ones that it lacks, by name.
        values: (k, L) float64, NaN where the column is null or there is no row.
        recorded: (k, L) bool, whether the column's own table has a row for the cell, or a later
            analysis a value.
    """

    steps: Codes
    layers: tuple[str, ...]
    values: Values
    recorded: Mask


@dataclass(frozen=True, slots=True)
class WordGrid:
    """One text column of one stage; all arrays are read-only.

    Attributes:
        steps: (k,) int64, as those of a Grid.
        layers: as those of a Grid.
        words: that occur, sorted.
        codes: (k, L) int16, indices of words; -1 where the column is null or there is no row.
    """

    steps: Codes
    layers: tuple[str, ...]
    words: tuple[str, ...]
    codes: WordCodes


@dataclass(frozen=True, slots=True)
class _Axes:
    """What all grids of a stage share.

    Attributes:
        steps: (k,) int64.
        layers: by name.
        places: of each layer's code among the layers.
        stage: the stage's code, -1 where no row has it.
        newest: hides rows of superseded attempts.
    """

    steps: Codes
    layers: tuple[str, ...]
    places: Mapping[int, int]
    stage: int
    newest: Newest | None

    def flat(self, part: Part) -> tuple[Codes, Codes | None]:
        """Where the rows of a part go in a flat grid, and which these are; None: all."""
        keys = part.keys
        mask = both(kept_rows(keys, self.newest), keys["stage"].where(self.stage))
        rows = None if mask is None else np.flatnonzero(mask)
        chosen: Any = slice(None) if rows is None else rows
        steps, layers = keys["step"], keys["layer"]
        above = np.searchsorted(self.steps, steps.values)
        above = np.where(np.append(self.steps, -1)[above] == steps.values, above, -1)
        beside = np.array([self.places.get(one, -1) for one in layers.values.tolist()], np.int64)
        row, column = above[steps.places[chosen]], beside[layers.places[chosen]]
        at = row * len(self.layers) + column
        # a later analysis may know steps and layers that the records do not
        inside = (row >= 0) & (column >= 0)
        if not inside.all():
            rows = np.flatnonzero(inside) if rows is None else rows[inside]
            at = at[inside]
        return at, rows


class _Sheet:
    """A flat grid that is being filled: the last row of a cell that has a value counts.

    Args:
        axes: of the stage.
        values: (k * L,), blank.
    """

    def __init__(self, axes: _Axes, values: Numbers):
        self._axes = axes
        self.values = values
        self.filled: Mask = np.zeros(len(values), bool)
        self.rows: Mask = np.zeros(len(values), bool)

    def put(self, part: Part, decode: Callable[[Part], tuple[Numbers, Mask | None]] | None) -> None:
        """Put in what a part holds; without a way to decode it, only where it has rows."""
        at, rows = self._axes.flat(part)
        self.rows[at] = True
        if decode is None or not len(at):
            return
        values, valid = decode(part)
        if rows is not None:
            values = values[rows]
            valid = None if valid is None else valid[rows]
        if valid is not None:
            values, at = values[valid], at[valid]
        self.values[at] = values
        self.filled[at] = True

    def fill(self, other: _Sheet) -> None:
        """Fill what is blank, and what is recorded there with it."""
        blank = other.filled & ~self.filled
        self.values[blank] = other.values[blank]
        self.filled |= blank
        self.rows |= blank


class Grids:
    """Makes the grids of one trace, and keeps them while there is room.

    Args:
        files: the trace's.
    """

    def __init__(self, files: TraceFiles):
        self._files = files

    def numbers(self, column: str, stage: str) -> Grid:
        """See Trace.grid."""
        return self._files.kept(
            ("grid", column, stage),
            lambda: self._numbers(column, stage),
            lambda one: one.values.nbytes + one.recorded.nbytes,
        )

    def words(self, column: str, stage: str) -> WordGrid:
        """See Trace.words."""
        return self._files.kept(
            ("words", column, stage),
            lambda: self._words(column, stage),
            lambda one: one.codes.nbytes,
        )

    def _numbers(self, column: str, stage: str) -> Grid:
        def decode(part: Part) -> tuple[Numbers, Mask | None]:
            found = one_array(part.columns([column]).column(0))
            if pa.types.is_null(found.type):
                found = found.cast(pa.float64())
            return numbers(found).astype(np.float64, copy=False), validity(found)

        def check(kind: pa.DataType) -> None:
            if is_text(kind):
                raise TraceError(f"{column} holds words: ask words({column!r}) for them")
            if not (is_number(kind) or pa.types.is_null(kind)):
                raise TraceError(f"{column} holds {kind}, which no grid holds")

        axes = self._axes(stage)
        size = len(axes.steps) * len(axes.layers)
        sheet = self._filled(column, axes, lambda: np.full(size, np.nan), decode, check)
        shape = (len(axes.steps), len(axes.layers))
        return Grid(axes.steps, axes.layers, _fixed(sheet.values, shape), _fixed(sheet.rows, shape))

    def _words(self, column: str, stage: str) -> WordGrid:
        known: dict[str | None, int] = {None: -1}

        def decode(part: Part) -> tuple[Numbers, Mask | None]:
            found = one_array(part.columns([column]).column(0))
            if not pa.types.is_dictionary(found.type):
                found = found.cast(pa.string()).dictionary_encode()
            places = [known.setdefault(one, len(known) - 1) for one in words_of(found)]
            valid, indices = validity(found.indices), numbers(found.indices)
            codes = np.array([*places, -1], np.int32)
            return codes[indices if valid is None else np.where(valid, indices, -1)], valid

        def check(kind: pa.DataType) -> None:
            if is_number(kind):
                raise TraceError(f"{column} holds numbers: ask grid({column!r}) for them")
            if not (is_text(kind) or pa.types.is_null(kind)):
                raise TraceError(f"{column} holds {kind}, which no grid holds")

        axes = self._axes(stage)
        size = len(axes.steps) * len(axes.layers)
        sheet = self._filled(column, axes, lambda: np.full(size, -1, np.int32), decode, check)
        by_code = {code: word for word, code in known.items() if word is not None}
        used = {by_code[code] for code in np.unique(sheet.values).tolist() if code >= 0}
        if len(used) > _MOST_WORDS:
            raise TraceError(f"{column} has {len(used)} different words: no grid holds so many")
        words = tuple(sorted(used))
        places = {word: place for place, word in enumerate(words)}
        renamed = [places.get(by_code[code], -1) for code in range(len(by_code))]
        codes = np.array([*renamed, -1], np.int16)[sheet.values]
        shape = (len(axes.steps), len(axes.layers))
        return WordGrid(axes.steps, axes.layers, words, _fixed(codes, shape))

    def _filled(
        self,
        column: str,
        axes: _Axes,
        blank: Callable[[], Numbers],
        decode: Callable[[Part], tuple[Numbers, Mask | None]],
        check: Callable[[pa.DataType], None],
    ) -> _Sheet:
        """The column's own table, and what others have where it has nothing."""
        tables = self._files.tables((*OPEN_TABLES, *self._files.derived_tables()))
        owners = [one for one in tables if column in one.types]
        for part in (part for one in owners for part in one.parts if column in part.types):
            check(part.types[column])
        whole: _Sheet | None = None
        for table in owners:
            sheet = _Sheet(axes, blank())
            for part in table.parts:
                sheet.put(part, decode if column in part.types else None)
            if whole is None:
                whole = sheet
            else:
                whole.fill(sheet)
        return _Sheet(axes, blank()) if whole is None else whole

    def _axes(self, stage: str) -> _Axes:
        return self._files.kept(
            ("axes", stage), lambda: self._make_axes(stage), lambda one: 256 * len(one.layers)
        )

    def _make_axes(self, stage: str) -> _Axes:
        vocabulary = self._files.vocabulary
        indexes = [self._files.index(table) for table in OPEN_TABLES]
        recorded = {vocabulary.words[code] for index in indexes for code in index.layers}
        known = [layer.name for layer in self._files.info.layers]
        layers = (*known, *sorted(recorded.difference(known)))
        # made where there is none: a later analysis may be the first to name a layer
        places = {vocabulary.code(name): place for place, name in enumerate(layers)}
        code = vocabulary.find(stage)
        steps = np.unique(np.concatenate([index.steps(None, code) for index in indexes]))
        steps.setflags(write=False)
        rows = sum(part.keys.rows for index in indexes for part in index.parts)
        most = max(FREE_CELLS, CELLS_PER_ROW * rows)
        refuse(self._files.place.shown, "steps by layers in a grid", len(steps) * len(layers), most)
        return _Axes(steps, layers, places, code, self._files.newest())


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds words."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, or true and false."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _fixed(array: Any, shape: tuple[int, int]) -> Any:
    made = array.reshape(shape)
    made.setflags(write=False)
    return made
