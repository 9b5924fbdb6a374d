"""A trace with raw matrices to the metrics that were not computed in flight.

Never rewrites a record: what is found goes into derived/analysis, and a value fills only a cell
that the records leave null.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import torch

from optgeom.geometry.analysis.engine import Done, Room, Source, reader_of
from optgeom.geometry.analysis.loading import raw_of
from optgeom.geometry.analysis.records import COLUMNS, MARK
from optgeom.geometry.analysis.units import Unit, left_out, pending
from optgeom.traces.derived import write_derived
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.schema import KEYS
from optgeom.traces.store import Trace


class NotAllMeasured(OptgeomError):
    """Some matrices could not be measured; what was found of the others is written."""


DERIVED_NAME = "analysis"
DEFAULT_MEMORY = 1 << 30
SECONDS_PER_WRITE = 30.0

_NAMED = 3

_logger = logging.getLogger(__name__)


def analyze(
    trace: Trace,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    device: str | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Measure every raw matrix of a trace that has not been measured yet.

    Resumable: results are written every half minute and when it is interrupted, and cells that are
    there are skipped. Companions of a matrix (gradient, weight, the input of the orthogonalization,
    the previous raw update) are taken where the trace holds them; cosine_previous is exact here,
    and looks back over the distance of the raw matrices. Singular values themselves are not stored:
    only what is made from them. The result is the same wherever it is computed.

    Args:
        trace: Refreshed at the beginning and at the end.
        workers: Processes to start for it; None: as many threads of this process as it has cores.
            While those run, BLAS is limited to one thread in the whole process.
        scheduler: Address of a Dask scheduler whose workers are to do it, such as
            "tcp://10.0.0.1:8786"; they open the trace under the address it was opened with.
        device: Where torch is to compute, such as "cuda"; None: LAPACK, on the processor.
        memory: Bytes that matrices under way may take, here or in this machine's processes.
        progress: Called with (done, total) cells, at first with (0, total).

    Returns:
        What this call added: key columns, the metrics that the records left null, and
        analysis_version; no rows where nothing was left to do.

    Raises:
        NotCaptured: if the trace holds no raw matrices.
        NotAllMeasured: if some cells could not be measured, after all others are written.
        OptgeomError: if two of workers, scheduler and device are given, or no scheduler answers.
        TraceError: if the trace cannot be written.
    """
    if sum(one is not None for one in (workers, scheduler, device)) > 1:
        raise OptgeomError("pass one of workers, scheduler and device: each says who computes")
    if workers is not None and workers < 1:
        raise OptgeomError(f"workers={workers}: it takes at least one process")
    if device is not None:
        _check(device)
    trace.refresh()
    # the largest first, so that the last ones end together
    units = sorted(pending(trace), key=lambda unit: unit.nbytes, reverse=True)
    for sentence in left_out(trace):
        _logger.warning("%s: raw matrices are left out, for %s", trace.path, sentence)
    if not units and not len(trace.steps(stage=None, table="updates")):
        raise NotCaptured(
            f"{trace.path} holds no raw matrices to analyze: capture them with updates_every"
        )
    total = sum(unit.cells for unit in units)
    tell = progress or _silent
    tell(0, total)
    kept = _Kept(trace)
    failures: list[str] = []
    done = 0
    with kept, closing(_engine(trace, units, workers, scheduler, device, memory)) as results:
        for one in results:
            kept.add(one.found.rows)
            failures.extend(one.found.failures)
            done += one.unit.cells
            tell(done, total)
    trace.refresh()
    if failures:
        more = f" (and {len(failures) - _NAMED} more)" if len(failures) > _NAMED else ""
        raise NotAllMeasured(
            f"{total - kept.count} of {total} cells could not be measured: "
            f"{'; '.join(failures[:_NAMED])}{more}"
            + (". The others are measured and written" if kept.count else "")
        )
    return kept.table()


def _engine(
    trace: Trace,
    units: Sequence[Unit],
    workers: int | None,
    scheduler: str | None,
    device: str | None,
    memory: int,
) -> Generator[Done]:
    if scheduler is not None:
        from optgeom.geometry.analysis.cluster import on_cluster

        return on_cluster(units, Source.of(trace), scheduler)
    if workers is not None:
        from optgeom.geometry.analysis.processes import on_processes

        return on_processes(units, Source.of(trace), Room(max(1, min(workers, len(units))), memory))
    from optgeom.geometry.analysis.threads import on_threads

    cores = 1 if device is not None else _cores()
    read = raw_of(reader_of(trace.place))
    return on_threads(units, read, Room(cores, memory), device=device)


class _Kept:
    """Rows on their way into derived/: written now and then, and whatever ends the analysis."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._rows: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self._parts: list[pa.Table] = []
        self.count = 0

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows.extend(rows)
        self.count += len(rows)
        if time.monotonic() - self._written > SECONDS_PER_WRITE:
            self._write()

    def table(self) -> pa.Table:
        if not self._parts:
            return _table([])
        return pa.concat_tables(self._parts, promote_options="default").combine_chunks()

    def _write(self) -> None:
        if self._rows:
            table = _table(self._rows)
            path = write_derived(self._trace, DERIVED_NAME, table)
            _logger.debug("%d cells analyzed into %s", len(self._rows), path)
            self._parts.append(table)
            self._rows = []
        self._written = time.monotonic()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._write()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(device: str) -> None:
    try:
        one = torch.ones(1, 1, device=device)
        float(one @ one)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise OptgeomError(f"torch cannot compute on device={device!r} here: {said}") from error


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    kinds = {
        name: pa.string() if pa.types.is_dictionary(kind) else kind for name, kind in KEYS.items()
    }
    kinds |= {name: pa.type_for_alias(alias) for name, alias in COLUMNS.items()}
    kinds[MARK] = pa.int64()
    arrays = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()}
    kept = {
        name: array
        for name, array in arrays.items()
        if name in KEYS or name == MARK or array.null_count < len(array)
    }
    return pa.table(kept)
