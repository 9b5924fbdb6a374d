"""Key columns as small integers: what a reader keeps in memory of every row.

Strings are coded by a vocabulary that all tables of a trace share, so that cells of different
tables compare as integers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import numbers, one_array
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.limits import MAX_WORDS, refuse

Codes = np.ndarray[Any, np.dtype[np.int64]]
Places = np.ndarray[Any, np.dtype[Any]]
CELL = ("step", "layer", "stage", "attempt", "optimizer")
# what follows a step is a step too
_MOST_STEPS = 1 << 62


class Vocabulary:
    """Strings to integers, in the order of their first appearance; several threads may add."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def code(self, word: str) -> int:
        """The code of a word, made if it has none.

        Raises:
            DamagedTrace: the trace has more words than any.
        """
        if word not in self._codes:
            with self._lock:
                if word not in self._codes:
                    refuse(
                        "the trace",
                        "names of layers, stages and optimizers",
                        len(self.words) + 1,
                        MAX_WORDS,
                    )
                    # the word first: who finds a code without waiting finds its word too
                    self.words.append(word)
                    self._codes[word] = len(self.words) - 1
        return self._codes[word]

    def find(self, word: str) -> int:
        """The code of a word, or -1."""
        return self._codes.get(word, -1)

    def encode(self, column: pa.Array) -> Codes:
        """The codes of a dictionary-encoded column without nulls."""
        codes = np.array([self.code(word) for word in words_of(column)], np.int64)
        indices = numbers(column.indices).astype(np.int64, copy=False)
        encoded: Codes = codes[indices] if len(indices) else indices
        return encoded


def words_of(column: pa.Array) -> list[str]:
    """The words of a dictionary-encoded column; a null among them is the empty word.

    Raises:
        DamagedTrace: they are more than a trace has.
    """
    refuse("a column", "different words", len(column.dictionary), MAX_WORDS)
    return [one or "" for one in column.dictionary.to_pylist()]


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of integers in few bytes: most key columns have few values.

    Attributes:
        values: (u,) int64, ascending, once each.
        places: (n,) of each row, in `values`; in the smallest type that holds them.
    """

    values: Codes
    places: Places

    @classmethod
    def of(cls, column: pa.Array, vocabulary: Vocabulary) -> Self:
        """Code a column without nulls, of integers or of dictionary-encoded strings."""
        if pa.types.is_dictionary(column.type):
            words = [vocabulary.code(word) for word in words_of(column)]
            known = np.array(words, np.int64)
        else:
            plain = numbers(column)
            if len(plain) and not (plain[1:] < plain[:-1]).any():
                return cls._ascending(plain)
            column = column.dictionary_encode()
            known = numbers(column.dictionary).astype(np.int64)
        indices = numbers(column.indices)
        used = np.bincount(indices, minlength=len(known)) > 0
        values, where = np.unique(known[used], return_inverse=True)
        places = np.zeros(len(known), np.min_scalar_type(max(len(values) - 1, 0)))
        places[used] = where
        if len(values) < 2:
            return cls(values, np.broadcast_to(np.uint8(0), len(indices)))
        return cls(values, places[indices])

    @classmethod
    def _ascending(cls, column: Places) -> Self:
        """As `of`, five times as fast: steps and attempts mostly come in their order."""
        changes = column[1:] != column[:-1]
        starts = np.flatnonzero(changes) + 1
        values = column[np.append(0, starts)].astype(np.int64)
        if not len(starts):
            return cls(values, np.broadcast_to(np.uint8(0), len(column)))
        kind = np.min_scalar_type(len(starts))
        return cls(values, np.append(kind.type(0), np.cumsum(changes, dtype=kind)))

    def __getitem__(self, rows: Any) -> Codes:
        """The integers of some rows."""
        taken: Codes = self.values[self.places[rows]]
        return taken

    def where(self, value: int) -> Places | None:
        """Which rows have a value, (n,) bool; None where all of them do."""
        at = int(np.searchsorted(self.values, value))
        if at == len(self.values) or self.values[at] != value:
            return np.zeros(len(self.places), bool)
        return None if len(self.values) == 1 else self.places == at


@dataclass(frozen=True, slots=True)
class Keys:
    """The key columns of some rows.

    Attributes:
        rows: how many.
        columns: those of CELL; scalars have steps and attempts alone.
    """

    rows: int
    columns: Mapping[str, Coded]

    @classmethod
    def of(cls, table: pa.Table, vocabulary: Vocabulary, name: str) -> Self:
        """Code the key columns that a table has.

        Args:
            table: one chunk per column.
            vocabulary: shared by all tables of a trace.
            name: how to call the table's file in errors.

        Raises:
            DamagedTrace: a key is null.
        """
        columns = {}
        for one in CELL:
            if one not in table.schema.names:
                continue
            column = one_array(table.column(one))
            if column.null_count or _has_null_words(column):
                raise DamagedTrace(f"{name} has rows without {one}: no key may be null")
            columns[one] = Coded.of(column, vocabulary)
            values = columns[one].values
            first = 0 if "layer" in table.schema.names else -_MOST_STEPS
            if one == "step" and len(values) and not first <= values[0] <= values[-1] < _MOST_STEPS:
                raise DamagedTrace(f"{name} has steps from {values[0]} to {values[-1]}: no run has")
        return cls(table.num_rows, columns)

    def __getitem__(self, name: str) -> Coded:
        """One column."""
        return self.columns[name]

    def cell(self, row: int, vocabulary: Vocabulary) -> str:
        """The cell of a row in words, for errors: what a trace loses with it.

        Args:
            row: its place.
            vocabulary: that the keys were coded with.
        """
        step = f"step {self['step'][row]}"
        if "layer" not in self.columns:
            return step
        layer, stage = (vocabulary.words[int(self[key][row])] for key in ("layer", "stage"))
        return f"{layer} {stage} at {step}"

    def pairs(self, one: str, other: str) -> tuple[Codes, Codes]:
        """What two columns hold together in any row, once each: two arrays (p,)."""
        first, second = self.columns[one], self.columns[other]
        width = max(len(second.values), 1)
        there = np.unique(first.places.astype(np.int64) * width + second.places)
        return first.values[there // width], second.values[there % width]


def _has_null_words(column: pa.Array) -> bool:
    return bool(pa.types.is_dictionary(column.type) and column.dictionary.null_count)


def key_codes(table: pa.Table, vocabulary: Vocabulary) -> dict[str, Codes]:
    """The cell columns of a table as integers, (n,) int64 each.

    Args:
        table: one chunk per column.
        vocabulary: shared by all tables of a trace.
    """
    codes = {}
    for name in CELL:
        column = one_array(table.column(name))
        if pa.types.is_dictionary(column.type):
            codes[name] = vocabulary.encode(column)
        else:
            codes[name] = numbers(column).astype(np.int64, copy=False)
    return codes
