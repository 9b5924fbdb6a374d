"""Several runs side by side: a folder of traces."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import DamagedTrace, NotATrace, NotCaptured
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import Place, find
from optgeom.traces.info import RUN_FILE
from optgeom.traces.names import TEMPORARY
from optgeom.traces.shown import traces_html
from optgeom.traces.trace import Trace

_LOG = logging.getLogger(__name__)


class Traces(Mapping[str, Trace]):
    """The traces of a folder by name, in alphabetical order.

    One whose run.json is damaged is left out: it stands in `damaged`, in the repr, and once in the
    log. Every refresh looks at it again. What is read of all of them together is kept in one cache.

    Raises:
        DamagedTrace: every one of them is damaged.
    """

    def __init__(self, place: Place):
        self._place = place
        self._cache = Cache()
        self._traces: dict[str, Trace] = {}
        self._damaged: dict[str, DamagedTrace] = {}
        self.refresh()
        self._refuse_all_damaged()

    @property
    def path(self) -> str:
        """The path or URI that it was opened with, keys and tokens masked: for messages."""
        return self._place.shown

    @property
    def uri(self) -> str:
        """What open_traces opens it by in any process; see Trace.uri."""
        return self._place.uri

    def refresh(self) -> bool:
        """Take up new runs, and what live ones have written; True if there is anything new."""
        found: dict[str, Trace] = {}
        damaged: dict[str, DamagedTrace] = {}
        changed = False
        for name in _traces_in(self._place):
            trace = self._traces.get(name)
            try:
                if trace is None:
                    trace = Trace(self._place.below(name), self._cache)
                elif trace.refresh():
                    changed = True
            except FileNotFoundError:
                changed = True  # removed since the folder was listed
            except DamagedTrace as error:
                damaged[name] = error.with_traceback(None)
                if name not in self._damaged:
                    _LOG.warning("%s is left out: %s", name, error)
            else:
                found[name] = trace
        changed |= list(found) != list(self._traces) or list(damaged) != list(self._damaged)
        self._traces, self._damaged = found, damaged
        return changed

    @property
    def damaged(self) -> Mapping[str, DamagedTrace]:
        """Why traces of the folder are left out, by name; open_trace raises the same."""
        return MappingProxyType(self._damaged)

    @property
    def version(self) -> str:
        """A token that changes when a refresh finds something new."""
        versions = [f"{name}={trace.version}" for name, trace in self._traces.items()]
        return ",".join([*versions, *(f"{name}=damaged" for name in self._damaged)])

    def metrics(self, **filters: Any) -> pa.Table:
        """The metrics of all runs in one table; `run` is the trace's name here.

        Args:
            filters: as for Trace.metrics; a trace that lacks a layer, step or stage is left out.

        Raises:
            NotCaptured: no trace has what was asked for.
            DamagedTrace: all have been damaged since they were opened.
        """
        self._refuse_all_damaged()
        tables, missing = [], None
        for name, trace in self._traces.items():
            try:
                table = trace.metrics(**filters)
            except NotCaptured as error:
                missing = error
                continue
            run = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, np.int32), [name])
            tables.append(table.set_column(table.schema.get_field_index("run"), "run", run))
        if not tables and missing is not None:
            raise missing
        return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()

    def _refuse_all_damaged(self) -> None:
        if self._damaged and not self._traces:
            raise next(iter(self._damaged.values()))

    def __getitem__(self, name: str) -> Trace:
        if name in self._damaged:
            raise KeyError(f"the trace {name!r} is left out: {self._damaged[name]}")
        if name not in self._traces:
            raise KeyError(f"no trace {name!r} in {self.path}: there are {', '.join(self)}")
        return self._traces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)

    def __repr__(self) -> str:
        damaged = f"; damaged: {', '.join(self._damaged)}" if self._damaged else ""
        return f"<Traces {self.path!r}: {', '.join(self) or 'none'}{damaged}>"

    def _repr_html_(self) -> str:
        return traces_html(self.path, self._traces, self._damaged)


def open_traces(path: str | os.PathLike[str]) -> Traces:
    """Open a folder of runs.

    Args:
        path: the folder, or a URI of it that pyarrow.fs opens.

    Raises:
        NotATrace: it holds no traces; the message says what is there instead.
        DamagedTrace: the run.json of every one is damaged; of some: see Traces.damaged.
        SchemaTooNew: a newer optgeom wrote one of them.
        TraceError: the file system does not answer, or refuses.
    """
    place = find(path)
    if place.has(RUN_FILE):
        raise NotATrace(f"{place.shown} is one trace: use open_trace")
    if not place.is_folder():
        raise NotATrace(f"{place.missing()}: pass the folder that holds your runs")
    if _traces_in(place):
        return Traces(place)
    deeper = [name for name in _folders(place) if _traces_in(place.below(name))]
    if deeper:
        raise NotATrace(f"{place.shown} holds no traces, its folder {deeper[0]!r} does: pass that")
    raise NotATrace(f"{place.shown} holds no traces: pass the folder that holds your runs")


def _traces_in(place: Place) -> list[str]:
    return [name for name in _folders(place) if place.below(name).has(RUN_FILE)]


def _folders(place: Place) -> list[str]:
    """Without those in which a trace is being made, or was when its process was killed."""
    return [name for name in place.folders() if not name.startswith(TEMPORARY)]
