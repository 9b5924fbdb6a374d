"""One file of a table as a reader holds it: the keys of its rows, and a way to the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from optgeom.traces.columns import numbers, one_array, validity
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place
from optgeom.traces.names import PartName
from optgeom.traces.reading.keys import Keys, Vocabulary
from optgeom.traces.reading.order import Order
from optgeom.traces.schema import FLOATS

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]


class Vanished(DamagedTrace):
    """A segment is not there any more; where others took its place, the question is asked anew.

    Args:
        path: within the trace's folder.
        name: how it is called in errors.
    """

    def __init__(self, path: str, name: str):
        super().__init__(f"{name} is gone: restore it from a copy")
        self.path = path


@dataclass(frozen=True, slots=True)
class Source:
    """What all parts of a trace share.

    Attributes:
        place: the trace's folder.
        vocabulary: of the key columns.
        cache: for what is read.
    """

    place: Place
    vocabulary: Vocabulary
    cache: Cache


@dataclass(frozen=True, slots=True)
class Lists:
    """A column of lists of float32.

    Attributes:
        offsets: (n + 1,) where each row's list begins in `values`.
        values: all items.
        valid: (n,) false where the list is null.
    """

    offsets: Integers
    values: Floats
    valid: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, column: pa.Array, name: str) -> Self:
        """The lists of a column, copied: what Arrow's pool has lent goes back to it at once.

        Raises:
            DamagedTrace: it has another type.
        """
        if column.type != FLOATS:
            raise DamagedTrace(f"{name} has lists of another type than float32: {column.type}")
        valid = validity(column)
        if valid is None:
            valid = np.ones(len(column), bool)
        values, there = numbers(column.values).copy(), validity(column.values)
        if there is not None:
            values[~there] = np.nan
        return cls(numbers(column.offsets).copy(), values, valid)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return self.offsets.nbytes + self.values.nbytes + self.valid.nbytes

    def at(self, row: int) -> Floats | None:
        """One list, without a copy; None where it is null."""
        if not self.valid[row]:
            return None
        found: Floats = self.values[self.offsets[row] : self.offsets[row + 1]]
        return found


class Part(ABC):
    """The rows of one file.

    Attributes:
        name: attempt, rank and sequence.
        path: within the trace's folder.
        size: of its files, in bytes.
        keys: the key columns of its rows.
        types: column -> type, of what it is read as.
        order: finds rows by layer and stage.
        token: names the part in the cache.
    """

    def __init__(
        self,
        source: Source,
        name: PartName,
        path: str,
        size: int,
        keys: Keys,
        types: Mapping[str, pa.DataType],
    ):
        self.source = source
        self.name, self.path, self.size = name, path, size
        self.keys, self.types = keys, types
        self.order = Order(keys)
        # what is kept in the cache shall not keep the part
        self.token = object()

    @property
    def shown(self) -> str:
        """How the file is called in errors."""
        return self.source.place.of(self.path)

    @abstractmethod
    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows, those that `types` has; one chunk each.

        Raises:
            DamagedTrace: a byte of them changed.
        """

    @abstractmethod
    def list_at(self, name: str, row: int) -> Floats | None:
        """The float32 list in one row, not to be written to; None where it is null.

        Raises:
            DamagedTrace: a byte of it changed.
        """

    def integers(self, name: str) -> Integers:
        """A column of integers, (n,) int64, 0 where it is null."""
        key = (self.token, name)
        found: Integers | None = self.source.cache.get(key)
        if found is None:
            column = one_array(self.columns([name]).column(0))
            valid = validity(column)
            found = numbers(column).astype(np.int64)
            if valid is not None:
                found[~valid] = 0
            self.source.cache.put(key, found, found.nbytes)
        return found
