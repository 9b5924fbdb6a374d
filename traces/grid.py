"""One column of one stage as an array: a row per captured step, a column per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import TraceError
from optgeom.traces.parts import Codes
from optgeom.traces.reader import TraceFiles
from optgeom.traces.schema import OPEN_TABLES, TEXT, table_schema

Values = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
WordCodes = np.ndarray[Any, np.dtype[np.int16]]


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


class Grids:
    """Makes the grids of one trace, and keeps them until a refresh finds something new.

    Args:
        files: the trace's.
    """

    def __init__(self, files: TraceFiles):
        self._files = files
        self._version = ""
        self._grids: dict[tuple[str, str], Grid] = {}
        self._words: dict[tuple[str, str], WordGrid] = {}

    def numbers(self, column: str, stage: str) -> Grid:
        """See Trace.grid."""
        with self._files.lock:
            self._forget_old()
            made = self._grids.get((column, stage))
            if made is None:
                made = self._make_numbers(column, stage)
                self._grids[column, stage] = made
            return made

    def words(self, column: str, stage: str) -> WordGrid:
        """See Trace.words."""
        with self._files.lock:
            self._forget_old()
            made = self._words.get((column, stage))
            if made is None:
                made = self._make_words(column, stage)
                self._words[column, stage] = made
            return made

    def _forget_old(self) -> None:
        if self._version != self._files.version:
            self._grids.clear()
            self._words.clear()
        self._version = self._files.version

    def _make_numbers(self, column: str, stage: str) -> Grid:
        steps, layers = self._axes(stage)
        table, at = self._rows(steps, layers, stage)
        values = np.full((len(steps), len(layers)), np.nan)
        recorded = self._recorded(column, steps, layers, stage)
        if column in table.schema.names:
            found = table.column(column)
            if found.type == TEXT:
                raise TraceError(f"{column} holds words: ask words({column!r}) for them")
            valid = found.is_valid().to_numpy()
            numbers = found.cast(pa.float64()).to_numpy()
            values[at[0][valid], at[1][valid]] = numbers[valid]
            recorded[at[0][valid], at[1][valid]] = True
        for array in (steps, values, recorded):
            array.setflags(write=False)
        return Grid(steps, layers, values, recorded)

    def _make_words(self, column: str, stage: str) -> WordGrid:
        steps, layers = self._axes(stage)
        table, at = self._rows(steps, layers, stage)
        codes = np.full((len(steps), len(layers)), -1, np.int16)
        words: tuple[str, ...] = ()
        if column in table.schema.names:
            found = table.column(column)
            if found.type != TEXT and found.null_count < len(found):
                raise TraceError(f"{column} holds numbers: ask grid({column!r}) for them")
            texts = found.to_pylist()
            words = tuple(sorted({text for text in texts if text is not None}))
            if len(words) > np.iinfo(np.int16).max:
                raise TraceError(
                    f"{column} has {len(words)} different words: more than a grid holds"
                )
            places = {text: place for place, text in enumerate(words)}
            valid = found.is_valid().to_numpy()
            codes[at[0][valid], at[1][valid]] = [places[text] for text in texts if text is not None]
        for array in (steps, codes):
            array.setflags(write=False)
        return WordGrid(steps, layers, words, codes)

    def _axes(self, stage: str) -> tuple[Codes, tuple[str, ...]]:
        find, words = self._files.vocabulary.find, self._files.vocabulary.words
        indexes = [self._files.index(table) for table in OPEN_TABLES]
        recorded = {words[layer] for index in indexes for layer, _ in index.pairs}
        known = [layer.name for layer in self._files.info.layers]
        layers = (*known, *sorted(recorded.difference(known)))
        code = find(stage)
        steps = np.unique(np.concatenate([index.steps(None, code) for index in indexes]))
        return steps, layers

    def _rows(
        self, steps: Codes, layers: tuple[str, ...], stage: str
    ) -> tuple[pa.Table, tuple[Codes, Codes]]:
        joined = self._files.joined(newest_only=True)
        vocabulary = self._files.vocabulary
        places = np.full(len(vocabulary.words), -1, np.int64)
        for place, name in enumerate(layers):
            if vocabulary.find(name) >= 0:
                places[vocabulary.find(name)] = place
        mask = joined.keys["stage"] == vocabulary.find(stage)
        mask &= np.isin(joined.keys["step"], steps) & (places[joined.keys["layer"]] >= 0)
        rows = np.searchsorted(steps, joined.keys["step"][mask])
        return joined.table.filter(pa.array(mask)), (rows, places[joined.keys["layer"][mask]])

    def _recorded(self, column: str, steps: Codes, layers: tuple[str, ...], stage: str) -> Mask:
        recorded: Mask = np.zeros((len(steps), len(layers)), bool)
        for table in OPEN_TABLES:
            if column not in table_schema(table, self._files.info.columns).names:
                continue
            index, find = self._files.index(table), self._files.vocabulary.find
            for place, name in enumerate(layers):
                there = index.steps(find(name), find(stage))
                recorded[np.searchsorted(steps, there), place] = True
            break
        return recorded
