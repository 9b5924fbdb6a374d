"""Several runs side by side: a folder of traces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import NotATrace, NotCaptured
from optgeom.traces.info import RUN_FILE
from optgeom.traces.place import Place, find
from optgeom.traces.trace import Trace


class Traces(Mapping[str, Trace]):
    """The traces of a folder by name, in alphabetical order."""

    def __init__(self, place: Place):
        self._place = place
        self._traces: dict[str, Trace] = {}
        self.refresh()

    @property
    def path(self) -> str:
        """The path or URI that it was opened with."""
        return self._place.shown

    def refresh(self) -> bool:
        """Take up new runs, and what live ones have written; True if there is anything new."""
        names = _traces_in(self._place)
        before = dict(self._traces)
        found = {name: before.get(name) or Trace(self._place.below(name)) for name in names}
        changed = [before[name].refresh() for name in names if name in before]
        self._traces = found
        return any(changed) or list(found) != list(before)

    @property
    def version(self) -> str:
        """A token that changes when a refresh finds something new."""
        return ",".join(f"{name}={trace.version}" for name, trace in self._traces.items())

    def metrics(self, **filters: Any) -> pa.Table:
        """The metrics of all runs in one table; `run` is the trace's name here.

        Args:
            filters: as for Trace.metrics; a trace that lacks a layer, step or stage is left out.

        Raises:
            NotCaptured: no trace has what was asked for.
        """
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

    def __getitem__(self, name: str) -> Trace:
        if name not in self._traces:
            raise KeyError(f"no trace {name!r} in {self.path}: there are {', '.join(self)}")
        return self._traces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)

    def __repr__(self) -> str:
        return f"<Traces {self.path!r}: {', '.join(self)}>"


def open_traces(path: str | os.PathLike[str]) -> Traces:
    """Open a folder of runs.

    Args:
        path: the folder, or a URI of it that pyarrow.fs opens.

    Raises:
        NotATrace: it holds no traces; the message says what is there instead.
    """
    place = find(path)
    if place.has(RUN_FILE):
        raise NotATrace(f"{place.shown} is one trace: use open_trace({place.shown!r})")
    if not place.is_folder():
        raise NotATrace(f"{place.shown} is no folder: pass the folder that holds your runs")
    if _traces_in(place):
        return Traces(place)
    deeper = [name for name in place.folders() if _traces_in(place.below(name))]
    if deeper:
        raise NotATrace(
            f"{place.shown} holds no traces, {place.below(deeper[0]).shown} does: "
            f"use open_traces({place.below(deeper[0]).shown!r})"
        )
    raise NotATrace(f"{place.shown} holds no traces: pass the folder that holds your runs")


def _traces_in(place: Place) -> list[str]:
    return [name for name in place.folders() if place.below(name).has(RUN_FILE)]
