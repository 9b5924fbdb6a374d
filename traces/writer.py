"""TraceWriter: takes records from a training run and never keeps it waiting.

Its methods put records into a queue that is bounded in bytes; one background thread writes them.
A full queue drops and counts, or makes the run wait, by setting. Once made, a writer raises
nothing into the run: a failure of its thread is kept in `failure`, said once in the log and in
run.json; the small tables are tried once more, and what could not be written, or comes after, is
counted as dropped.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from optgeom.traces.files.listing import file_sizes
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import SMALL_TABLES, Cell, check_columns, table_schema
from optgeom.traces.writing.losses import Losses
from optgeom.traces.writing.manifest import Manifest
from optgeom.traces.writing.opening import Opened, open_run
from optgeom.traces.writing.room import NO_ROOM
from optgeom.traces.writing.rows import CellRow, Row, RowMaker, floats, list_bytes, matrix_bytes
from optgeom.traces.writing.tables import Entry, Tables

_ROW_BYTES = 512
_ORDERS = ("end_step", "amend")


class TraceWriter:
    """Writes one attempt of one run, from one rank.

    Args:
        out: a folder, made if it is not there; or a URI of an object store that pyarrow.fs opens.
            Records for a store lie in a local spool until it has them (docs/keeping.md).
        info: what run.json shall say. Only rank 0 writes it.
        rank: this process's rank; every rank writes its own files into the same folder.
        start_step: resume the trace that is there as a new attempt that begins with this step.
        attempt: on ranks other than 0 of a resumed run: rank 0's `attempt`, as told by it.
        flush_every: seconds; at most so much is lost when the process is killed.
        queue_bytes: what may wait in memory before records are dropped.
        wait: a full queue makes the caller wait instead.
        prepare: called first on the background thread, for what `cells` will do there.
        close_within: seconds that `close` waits for an object store.

    Attributes:
        path: the folder that it writes to: the trace's own, or a spool.
        place: where the trace is read.
        attempt: the number of this attempt.
        failure: what ended the background thread, or None.
        raw_bytes: bytes of raw matrices that were accepted so far.
        seconds: CPU time of the background thread, up to its last flush.

    Raises:
        TraceExists: `out` holds a trace and `start_step` is None.
        TraceError: `out` cannot be written, a live process writes it, or the columns cannot make a
            trace. Nothing is left.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        info: RunInfo,
        *,
        rank: int = 0,
        start_step: int | None = None,
        attempt: int | None = None,
        flush_every: float = 2.0,
        queue_bytes: int = 256 << 20,
        wait: bool = False,
        prepare: Callable[[], object] | None = None,
        close_within: float = 60.0,
    ):
        check_columns(info.columns)
        opened = open_run(
            out, info, rank=rank, start_step=start_step, attempt=attempt, every=flush_every
        )
        with opened.undo as undo:
            self._begin(opened, info, rank)
            self._flush_every, self._close_within = flush_every, close_within
            self._queue_bytes, self._wait, self._prepare = queue_bytes, wait, prepare
            self._thread = threading.Thread(target=self._work, name="optgeom-writer", daemon=True)
            self._thread.start()
            undo.pop_all()
        atexit.register(self.close)

    def _begin(self, opened: Opened, info: RunInfo, rank: int) -> None:
        self.path, self.place, self.attempt = opened.folder, opened.place, opened.attempt
        self.rank = rank
        self._lock, self._mirror = opened.lock, opened.mirror
        self._manifest = Manifest(
            self.path, opened.info, self.attempt, writes=rank == 0, address=self.place.address
        )
        self.failure: BaseException | None = None
        self._shown = self.place.shown if self._mirror is not None else str(self.path)
        self._losses = Losses(self._shown)
        declared = self.info.columns
        columns = {table: set(table_schema(table, declared).names) for table in SMALL_TABLES}
        self._rows = RowMaker(self.info.run, self.attempt, rank, columns, self._losses.drop)
        self._rows.shapes.update({layer.name: layer.shape for layer in info.layers})
        self._tables = Tables(
            self.path, declared, self.attempt, rank, rows=self._rows, losses=self._losses
        )
        self.raw_bytes = 0
        self.seconds = 0.0
        self._error: BaseException | None = None
        self._queue: deque[Entry] = deque()
        self._taken: deque[Entry] = deque()
        self._queued = 0
        # `with` takes this one: a Condition's own is Python code, and Ctrl-C can leave it locked
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._asked = self._answered = self._told_lost = 0
        self._urgent = self._closing = self._ended = False
        self._process = os.getpid()

    @property
    def info(self) -> RunInfo:
        """What run.json says, the attempts included."""
        return self._manifest.info

    @property
    def dropped(self) -> Counter[str]:
        """Table, or table.column -> how many records or values were left out."""
        return self._losses.counts

    @property
    def bytes_written(self) -> int:
        """Bytes of records written so far; write-ahead streams and their segments both count."""
        return self._tables.bytes_written

    @property
    def size(self) -> int:
        """Bytes of the trace's files: all of a local one; of an object store, this writer's."""
        if self._mirror is not None:
            return self._mirror.size
        return sum(size for _, size in file_sizes(self.path))

    @property
    def behind(self) -> int:
        """Bytes that are in local files, and that the object store does not have yet."""
        return 0 if self._mirror is None else self._mirror.behind

    def metrics(self, key: Cell, values: Mapping[str, Any]) -> None:
        """Record the scalars of a cell; names are columns of `metrics`, absent ones are null."""
        self._put_row("metrics", self._rows.cell(key), values)

    def cells(self, make: Callable[[], Iterable[CellRow]], count: int, size: int) -> None:
        """Record scalars and neuron norms of whole cells, made when the thread gets to them.

        Args:
            make: called once, on the background thread; should not raise.
            count: how many cells it makes, for what is said of those left out.
            size: bytes that it holds until then.
        """
        self._put("cells", make, size, rows=count)

    def spectrum(
        self, key: Cell, singular_values: np.ndarray[Any, Any] | None, values: Mapping[str, Any]
    ) -> None:
        """Record a cell's singular values, (r,) descending, or None; and the scalars from them."""
        row = self._rows.cell(key)
        try:
            row["singular_values"] = floats(singular_values)
        except (TypeError, ValueError) as error:
            self._losses.drop("spectra", str(error))
            return
        self._put_row("spectra", row, values)

    def neurons(
        self,
        key: Cell,
        norms: np.ndarray[Any, Any],
        *,
        row_start: int = 0,
        rows: int | None = None,
        col_start: int = 0,
        cols: int | None = None,
    ) -> None:
        """Record the norms (rows,) of a block of a cell's rows; `cols` defaults to the layer's."""
        try:
            kept = floats(norms)
        except (TypeError, ValueError) as error:
            self._losses.drop("neurons", str(error))
            return
        count = 0 if kept is None else len(kept)
        row = self._rows.block(key, row_start, count if rows is None else rows, col_start, cols)
        self._put_row("neurons", row | {"neuron_norms": kept}, {})

    def update(
        self,
        key: Cell,
        values: Any,
        *,
        dtype: str = "float32",
        row_start: int = 0,
        rows: int | None = None,
        col_start: int = 0,
        cols: int | None = None,
    ) -> None:
        """Record a row block of a raw matrix.

        Args:
            key: the cell; any stage.
            values: (rows, cols), or bytes in row-major order. It is kept, not copied: do not
                write to it afterwards. bfloat16 comes as uint16.
            dtype: what the bytes are: float32, bfloat16, float16 or float64.
            row_start: the block's first row in the matrix.
            rows: how many, where `values` does not say.
            col_start: the block's first column.
            cols: how many, where `values` does not say; defaults to the layer's.
        """
        if self._forked:
            return self._losses.add("updates", 1)
        shape: tuple[int, ...] = tuple(getattr(values, "shape", ()))
        if len(shape) == 2:
            rows, cols = int(shape[0]), int(shape[1])
        row = self._rows.block(key, row_start, rows or 0, col_start, cols)
        try:
            view = matrix_bytes(values, row["rows"], row["cols"], dtype)
        except (TypeError, ValueError) as error:
            self._losses.drop("updates", str(error))
            return
        if self._mirror is not None and not self._mirror.room.takes(key.step, view.nbytes):
            self._losses.drop("updates", NO_ROOM)
            return
        self._put("updates", row | {"dtype": dtype, "values": view}, view.nbytes + _ROW_BYTES)

    def scalar(self, step: int, name: str, value: float) -> None:
        """Record a number beside the geometry: a loss, a time, a count."""
        self._put("scalars", self._rows.scalar(step, name, value), 128)

    def end_step(self, step: int) -> None:
        """Seal the raw matrices of a step: readers see them from then on."""
        self._put("end_step", step, 64)

    def amend(self, **changes: Any) -> None:
        """Replace fields of run.json, such as `capture` or `config`; only rank 0 writes it."""
        for layer in changes.get("layers", ()):
            self._rows.shapes[layer.name] = layer.shape
        self._put("amend", changes, 64)

    def flush(self) -> bool:
        """Wait until everything recorded so far is in files (raw matrices: after end_step).

        They are local ones; an object store has them after the next turn of another thread, which
        `catch_up` waits for.

        Returns:
            Whether it is: False where the writer has failed, or has left out anything since the
            flush before (see `dropped`); and in a forked child, which records nothing.
        """
        if self._forked:
            return False
        with self._mutex:
            self._asked += 1
            ticket = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= ticket or self._ended)
            before, self._told_lost = self._told_lost, self._losses.total
            return self.failure is None and self._told_lost == before

    def catch_up(self, seconds: float = 60.0) -> bool:
        """Wait until the object store has what was flushed; False if it has not in time."""
        if self._mirror is None or self._forked:
            return self._mirror is None
        return self._mirror.catch_up(seconds)

    def close(self, error: BaseException | None = None) -> None:
        """Write everything, seal it, mark the attempt closed (or failed); any number of times.

        Args:
            error: what ended the run early, if anything did; the attempt is marked failed then.
        """
        if self._forked:
            return
        with self._mutex:
            self._error = self._error or error
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if not self._manifest.has_ended:
            self._try(self._mark_ended)  # there may be room by now
        if self._mirror is not None:
            self._mirror.close(self._close_within)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(error)

    def __repr__(self) -> str:
        state = "failed" if self.failure else "closed" if self._closing else "open"
        return f"TraceWriter({self._shown!r}, rank={self.rank}, {state})"

    @property
    def _forked(self) -> bool:
        # a forked child has the object, not the thread: it must neither wait nor write
        return os.getpid() != self._process

    def _put_row(self, table: str, row: Row, values: Mapping[str, Any]) -> None:
        self._rows.fill(table, row, values)
        self._put(table, row, _ROW_BYTES + 64 * len(row) + list_bytes(row))

    def _put(self, what: str, item: Any, size: int, rows: int = 1) -> None:
        if self._forked:
            # another thread may have held any lock at the fork
            self._losses.add("metrics" if what == "cells" else what, rows * (what not in _ORDERS))
            return
        with self._mutex:
            while self._wait and self._full(size) and not self._refusing:
                self._urge()
                self._changed.wait()
            if self._refusing:
                reason = "the writer is closed" if self.failure is None else "the writer failed"
            elif self._full(size):
                reason = "the queue is full"
            else:
                self._queue.append(Entry(what, item, size, rows))
                self._queued += size
                self.raw_bytes += size if what == "updates" else 0
                if what == "updates" or self._queued > self._queue_bytes // 4:
                    self._urge()
                return
        if what not in _ORDERS:
            table = "metrics" if what == "cells" else what
            self._losses.drop(table, reason, rows)

    def _urge(self) -> None:
        """Have the thread take what waits now, not with the next flush."""
        self._urgent = True
        self._changed.notify_all()

    @property
    def _refusing(self) -> bool:
        return self.failure is not None or self._closing

    def _full(self, size: int) -> bool:
        # an item larger than the whole queue may pass when nothing waits
        return self._queued > 0 and self._queued + size > self._queue_bytes

    def _work(self) -> None:
        try:
            self._try(self._write_all)
            if self.failure is not None:
                self._salvage()
            if not self._try(self._mark_ended):
                # the second time it says what failed the first time
                self._try(self._mark_ended)
            if self._lock is not None:
                self._try(self._lock.release)
        finally:
            with self._mutex:
                self._ended = True
                self._changed.notify_all()

    def _try(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  the run must go on, whatever this was
            self._fail(error)
            return False
        return True

    def _write_all(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while self._turn():
            pass
        self._tables.seal()

    def _turn(self) -> bool:
        """Take what waits, flush if it is time; False when the writer shall end."""
        deadline = time.monotonic() + self._flush_every
        done = False
        while not done:
            with self._mutex:
                # rows wait for the flush: a thread that took each at once would hold the
                # interpreter's lock just when the run's next operations want it
                self._changed.wait_for(
                    lambda: self._urgent or self._closing or self._asked > self._answered,
                    timeout=max(0.0, deadline - time.monotonic()),
                )
                self._taken.extend(self._queue)
                self._queue.clear()
                self._urgent = False
                asked, closing = self._asked, self._closing
            while self._taken:
                entry = self._taken.popleft()
                self._take(entry)
                self._manifest.beat()
                with self._mutex:
                    self._queued -= entry.size
                    self._changed.notify_all()
            done = closing or asked > self._answered or time.monotonic() >= deadline
        self._tables.flush()
        self._manifest.beat()
        self.seconds = time.thread_time()
        with self._mutex:
            self._answered = asked
            self._changed.notify_all()
            return not (closing and not self._queue)

    def _take(self, entry: Entry) -> None:
        if entry.what == "amend":
            self._manifest.amend(entry.item)
            self._manifest.save()
            return
        self._tables.take(entry)
        if entry.what == "end_step" and self._mirror is not None:
            self._mirror.step_ended(entry.item)

    def _mark_ended(self) -> None:
        self._manifest.end(self.failure or self._error)

    def _fail(self, error: BaseException) -> None:
        with self._mutex:
            first, self.failure = self.failure is None, self.failure or error
            self._taken.extend(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        if first:
            self._losses.say_failure(error, None if self._mirror is None else self.path)

    def _salvage(self) -> None:
        """Try the small tables once more: what is left of a disk may hold them; count losses."""
        # raw matrices go first: the file that was being written takes the room that rows need;
        # then run.json says what failed, which needs less than the rows do
        self._try(self._tables.give_up_raw)
        self._try(self._mark_ended)
        for entry in self._taken:
            if entry.what == "amend":
                self._try(partial(self._manifest.amend, entry.item))
        self._tables.salvage(list(self._taken), self._try)
        self._taken.clear()
