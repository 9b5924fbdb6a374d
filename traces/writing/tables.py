"""The tables of one rank of one attempt, as the writer's thread fills them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from optgeom.traces.schema import SMALL_TABLES, table_schema
from optgeom.traces.writing.losses import Losses
from optgeom.traces.writing.rows import RowMaker
from optgeom.traces.writing.sink import RawLog, TableLog


class Entry(NamedTuple):
    """Something that waited in the queue.

    Attributes:
        what: a table, "cells" for the maker of whole cells, "end_step" or "amend".
        item: its row, the maker, the step, or the changes.
        size: bytes that it takes up in the queue.
        rows: how many records it is.
    """

    what: str
    item: Any
    size: int
    rows: int


class Tables:
    """Takes what waited in the queue, and writes it.

    Args:
        folder: of the trace.
        columns: table -> metric column -> type, as in run.json.
        attempt: which attempt, and `rank` whose rows these are.
        rank: see `attempt`.
        rows: makes the rows of whole cells.
        losses: told of values that are not of their column's type.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, Mapping[str, str]],
        attempt: int,
        rank: int,
        *,
        rows: RowMaker,
        losses: Losses,
    ):
        self._small = {
            table: TableLog(
                folder / table, table_schema(table, columns), attempt=attempt, rank=rank
            )
            for table in SMALL_TABLES
        }
        schema = table_schema("updates", {})
        self._raw = RawLog(folder / "updates", schema, attempt=attempt, rank=rank)
        self._rows, self._losses = rows, losses

    @property
    def bytes_written(self) -> int:
        """Bytes so far; write-ahead streams and their segments both count."""
        return self._raw.bytes_written + sum(log.bytes_written for log in self._small.values())

    def take(self, entry: Entry) -> None:
        """Take a row of a table, the maker of whole cells, or the end of a step.

        What it raises leaves a row among those that `salvage` tries again, or counts; cells that
        were not made are counted here.
        """
        if entry.what == "updates":
            self._raw.add(entry.item)
        elif entry.what == "end_step":
            self._raw.end_step(entry.item)
        elif entry.what == "cells":
            self._take_cells(entry)
        else:
            self._small[entry.what].add(entry.item)

    def _take_cells(self, entry: Entry) -> None:
        left = entry.rows
        try:
            for table, row in self._rows.of_cells(entry.item()):
                left -= table == "metrics"
                self._small[table].add(row)
        except BaseException:
            self._losses.add("metrics", max(0, left))
            raise

    def flush(self) -> None:
        """Bring the rows of the small tables to their files."""
        for table, log in self._small.items():
            log.flush()
            self._count_lost(table, log)

    def seal(self) -> None:
        """Turn everything into sealed segments."""
        for log in self._small.values():
            log.seal()
        self._raw.seal()

    def give_up_raw(self) -> None:
        """Abandon raw matrices that are not sealed: the file that was being written gives room."""
        self._raw.close()

    def salvage(self, taken: list[Entry], attempted: Callable[[Callable[[], None]], bool]) -> None:
        """Try the small tables once more after a failure, and count what is lost.

        Args:
            taken: what had not been written when it failed.
            attempted: calls a function, and keeps what it raises.
        """
        self._losses.add("updates", self._raw.take_pending())
        for entry in taken:
            if entry.what in self._small or entry.what == "cells":
                attempted(partial(self.take, entry))
            elif entry.what == "updates":
                self._losses.add("updates", 1)
        for table, log in self._small.items():
            attempted(log.seal)
            self._count_lost(table, log)
            self._losses.add(table, log.take_pending())
            attempted(log.close)

    def _count_lost(self, table: str, log: TableLog) -> None:
        for name, count in log.lost.items():
            self._losses.drop(f"{table}.{name}", "the value is not of the column's type", count)
        log.lost.clear()
