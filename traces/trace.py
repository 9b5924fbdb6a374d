"""One run, opened: what a figure, a notebook or an analysis asks of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import NotATrace, NotCaptured
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.listing import has_records
from optgeom.traces.files.place import Place, find
from optgeom.traces.info import RUN_COPY, RUN_FILE, LayerInfo, RunInfo
from optgeom.traces.reading.arrays import Arrays
from optgeom.traces.reading.asked import Names, Steps, in_steps, names_in
from optgeom.traces.reading.cells import CellIndex
from optgeom.traces.reading.grid import Grid, Grids, WordGrid
from optgeom.traces.reading.keys import Codes
from optgeom.traces.reading.naming import Naming
from optgeom.traces.reading.part import Floats
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import CELL_TABLES, STAGES, Cell
from optgeom.traces.shown import trace_html


class Trace:
    """One run: its records, and what run.json says of it.

    What is asked for is read then, and kept while there is room; refresh() takes up what a live
    run has written since.

    Args:
        place: the run's folder.
        cache: for what is read, shared by the traces of a folder; None: one of its own.
    """

    def __init__(self, place: Place, cache: Cache | None = None):
        self._files = TraceFiles(place, Cache() if cache is None else cache)
        self._grids = Grids(self._files)
        self._naming = Naming(self._files)
        self._arrays = Arrays(self._files, self._naming)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._files.place.name

    @property
    def path(self) -> str:
        """The path or URI that it was opened with, keys and tokens masked: for messages."""
        return self._files.place.shown

    @property
    def uri(self) -> str:
        """What open_trace opens it by in any process: an absolute path, or the whole URI.

        It holds whatever secrets the URI did: hand it on, and show `path`.
        """
        return self._files.place.uri

    @property
    def place(self) -> Place:
        """Where its files are; for what is written beside them."""
        return self._files.place

    def folder(self) -> Path:
        """The local folder it was opened at, absolute, wherever the current folder is now.

        Raises:
            TraceError: it was opened in another file system.
        """
        return self._files.place.local()

    @property
    def cache(self) -> Cache:
        """Where what was read of it is kept, with that of the other traces of its folder."""
        return self._files.cache

    @property
    def info(self) -> RunInfo:
        """All of run.json."""
        return self._files.info

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers, in the model's order."""
        return self._files.info.layers

    def layer(self, name: str) -> LayerInfo:
        """One layer by name.

        Raises:
            NotCaptured: there is none; the message names those most like it.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise self._naming.no_layer(name)

    @property
    def stages(self) -> tuple[str, ...]:
        """The captured stages, in the order of the data's way through an optimizer."""
        return self._naming.stages

    def steps(
        self,
        layer: str | None = None,
        stage: str | None = "update",
        table: str | None = "metrics",
    ) -> Codes:
        """The captured steps, ascending int64; empty where nothing was captured.

        Args:
            layer: a layer's name; None: any.
            stage: a stage; None: any.
            table: metrics, spectra, neurons or updates: they have clocks of their own; None: any.

        Raises:
            NotCaptured: there is no such layer, stage or table.
        """
        if table is not None and table not in CELL_TABLES:
            raise NotCaptured(f"no table {table!r}: there are {', '.join(CELL_TABLES)}")
        indexes = [self.index(one) for one in (CELL_TABLES if table is None else (table,))]
        if stage is not None and stage not in STAGES and stage not in self.stages:
            raise self._naming.no_stage(stage)
        if layer is not None:
            self._naming.layer(layer)
        find = self._files.vocabulary.find
        asked = [None if name is None else find(name) for name in (layer, stage)]
        found = [index.steps(*asked) for index in indexes]
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))

    def cell_names(self, table: str) -> set[tuple[str, str]]:
        """The layers and stages that a table has cells of, whether run.json names them or not."""
        words = self._files.vocabulary.words
        return {(words[layer], words[stage]) for layer, stage in self.index(table).pairs}

    def attempts(self, layer: str, stage: str, table: str = "updates") -> dict[int, int]:
        """Which attempt each captured step of a layer's stage is from.

        Raises:
            NotCaptured: there is no such layer, stage or table.
        """
        if table not in CELL_TABLES:
            raise NotCaptured(f"no table {table!r}: there are {', '.join(CELL_TABLES)}")
        index = self.index(table)
        rows = index.rows(self._naming.layer(layer), self._naming.stage(stage))
        return {
            step: int(index.parts[part].keys["attempt"][row])
            for step, (part, row) in zip(rows.steps.tolist(), rows, strict=True)
        }

    @property
    def last_step(self) -> int | None:
        """The last step of which anything was recorded; None in an empty trace."""
        return self._files.last_step

    @property
    def closed(self) -> bool:
        """Whether the newest attempt was closed by its writer."""
        return self._files.closed

    @property
    def failed(self) -> str | None:
        """What ended the writing of the newest attempt early, such as a full disk; else None."""
        return self._files.failed

    @property
    def is_live(self) -> bool:
        """Whether a process seems to write it: not ended, and touched within a minute."""
        return self._files.is_live

    @property
    def version(self) -> str:
        """A token that changes when a refresh finds something new."""
        return self._files.version

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(entry.size for entry in self._files.entries.values())

    def refresh(self) -> bool:
        """Look for new files, and read only those when asked next; True if there are any."""
        return self._files.refresh()

    def metrics(
        self,
        steps: Steps = None,
        layers: Names = None,
        stages: Names = None,
        attempts: Literal["newest", "all"] = "newest",
    ) -> pa.Table:
        """Every scalar of every cell: metrics, spectra and derived analyses joined.

        Args:
            steps: one step or several that must be there; a range or slice takes what lies in it.
            layers: a layer's name or several.
            stages: a stage or several.
            attempts: "newest": each step from the newest attempt that has it; "all": every row.

        Returns:
            Keys first, then a column per metric, null where not measured; rows by step, layer (in
            the model's order) and stage. Strings are dictionary-encoded: categories in pandas.

        Raises:
            NotCaptured: a step, layer or stage is not there; the message names what is.
        """
        if attempts not in ("newest", "all"):
            raise NotCaptured(f"attempts={attempts!r}: pass 'newest' or 'all'")
        joined = self._files.joined(newest_only=attempts == "newest")
        mask = np.ones(joined.table.num_rows, bool)
        if steps is not None:
            mask &= in_steps(joined.keys["step"], steps, self.path)
        if layers is not None:
            codes = [self._naming.layer(name) for name in names_in(layers)]
            mask &= np.isin(joined.keys["layer"], codes)
        if stages is not None:
            codes = [self._naming.stage(name) for name in names_in(stages)]
            mask &= np.isin(joined.keys["stage"], codes)
        return joined.table if mask.all() else joined.table.filter(pa.array(mask))

    def grid(self, column: str, stage: str = "update") -> Grid:
        """One numeric column of one stage over all captured steps and layers.

        All grids of a stage have the same axes: every step that metrics or spectra have of it.
        An unknown column is NaN everywhere and recorded nowhere; an unknown stage has no steps.

        Raises:
            TraceError: the column holds words.
        """
        return self._grids.numbers(column, stage)

    def words(self, column: str, stage: str = "update") -> WordGrid:
        """One text column of one stage, such as status; axes as those of grid.

        Raises:
            TraceError: the column holds numbers, or more than 32,767 different words.
        """
        return self._grids.words(column, stage)

    def spectrum(
        self, step: int, layer: str, stage: str = "update"
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The singular values of a cell, (r,) float64 descending.

        Raises:
            NotCaptured: there is no such cell, or its spectrum is null; the message says why.
        """
        return self._arrays.spectrum(step, layer, stage)

    def spectra(
        self, layer: str, stage: str = "update", steps: Steps = None
    ) -> tuple[Codes, list[np.ndarray[Any, np.dtype[np.float64]]]]:
        """The singular values of a layer over steps; cells whose spectrum is null are left out.

        Returns:
            The steps (k,), and k arrays (r,), descending.
        """
        return self._arrays.spectra(layer, stage, steps)

    def neuron_norms(self, step: int, layer: str, stage: str = "update") -> Floats:
        """The norm of each row of a cell, (m,) float32; NaN for rows that no rank has written.

        Raises:
            NotCaptured: there is no such cell; the message names what is there.
        """
        return self._arrays.neuron_norms(step, layer, stage)

    def neurons(
        self, layer: str, stage: str = "update", steps: Steps = None
    ) -> tuple[Codes, Floats]:
        """The row norms of a layer over steps: the steps (k,), and (k, m) float32."""
        return self._arrays.neurons(layer, stage, steps)

    def matrix(self, step: int, layer: str, stage: str = "update") -> Floats:
        """A raw matrix, (m, n) float32, rows = neurons, assembled from its row blocks.

        Raises:
            NotCaptured: there is none, or blocks of it are missing; the message says what is there.
            DamagedTrace: a byte of it changed.
        """
        return self._arrays.matrix(step, layer, stage)

    def matrices(
        self, stages: Names = None, layers: Names = None, steps: Steps = None
    ) -> Iterator[tuple[Cell, Floats]]:
        """The raw matrices that are there, one at a time, by step, layer and stage."""
        return self._arrays.matrices(stages, layers, steps)

    def scalars(self, name: str | None = None) -> pa.Table:
        """What was logged beside the geometry: step, name, value; by name and step.

        Args:
            name: only this one; an empty table if it was never logged.
        """
        found = self._files.scalars()
        return found.table if name is None else found.named(name)

    def __repr__(self) -> str:
        stages, steps = ", ".join(self.stages), self.steps(stage=None, table=None)
        reach = f"{len(steps)} captured steps {steps[0]} to {steps[-1]}" if len(steps) else "empty"
        ended = f"failed ({self.failed})" if self.failed else "closed" if self.closed else None
        state = ended or ("live" if self.is_live else "not closed")
        layers = f"{len(self.layers)} layers"
        return f"<Trace {self.name!r}: {layers}, {reach}, stages {stages or 'none'}, {state}>"

    def _repr_html_(self) -> str:
        return trace_html(self, self._files.entries)

    def index(self, table: str) -> CellIndex:
        """Where the cells of a table are now; for analyses that go through all of them.

        What is read from its parts is not asked anew where files are replaced meanwhile, as the
        answers of a trace are.
        """
        return self._files.index(table)


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Open one run.

    Args:
        path: its folder, or a URI of it that pyarrow.fs opens.

    Raises:
        NotATrace: the path is empty, or there is no run.json; the message says what is there.
        SchemaTooNew: a newer optgeom wrote it.
        DamagedTrace: run.json is truncated or its bytes changed.
        TraceError: the file system does not answer, or refuses.
    """
    place = find(path)
    if place.has(RUN_FILE):
        return Trace(place)
    if not place.is_folder():
        raise NotATrace(f"{place.missing()}: pass the folder that a run wrote to")
    several = [name for name in place.folders() if place.below(name).has(RUN_FILE)]
    if several:
        raise NotATrace(
            f"{place.shown} is a folder of traces ({', '.join(several[:4])}): "
            "open one of them, or all with open_traces"
        )
    if place.has(RUN_COPY):
        raise NotATrace(
            f"{place.shown} is a run whose {RUN_FILE} is missing: "
            "`optgeom trace verify --repair` makes it anew from its copy, in a local folder"
        )
    if has_records(place):
        raise NotATrace(
            f"{place.shown} is a run whose {RUN_FILE} is missing, and no copy of it is there: put "
            "one back from a backup"
        )
    raise NotATrace(
        f"{place.shown} is no trace, for it holds no {RUN_FILE}: "
        "pass the folder that a run wrote to"
    )
