"""The files of one trace, as a reader follows them: what is there, what was read, what is new."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import pyarrow as pa

from optgeom.traces.cells import CellIndex, Newest
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.info import RUN_FILE, RunInfo, parse
from optgeom.traces.joined import Joined, join
from optgeom.traces.names import TEMPORARY, parse_name
from optgeom.traces.parts import PartTable, Vocabulary
from optgeom.traces.place import Entry, Place
from optgeom.traces.scalars import newest_scalars
from optgeom.traces.schema import CELL_TABLES, OPEN_TABLES, TABLES, table_schema

DERIVED = "derived"
_TRIES = 8
_LIVE_SECONDS = 60.0
_T = TypeVar("_T")


class TraceFiles:
    """Reads a trace's files on first use, and after a refresh only those that are new.

    Safe to use from several threads. What it hands out is never changed afterwards.

    Args:
        place: the folder, which holds a run.json.

    Raises:
        DamagedTrace: run.json is truncated or its bytes changed.
        SchemaTooNew: a newer optgeom wrote it.
    """

    def __init__(self, place: Place):
        self.place = place
        self.vocabulary = Vocabulary()
        self.lock = threading.RLock()
        self._tables: dict[str, PartTable] = {}
        self._fresh: set[str] = set()
        self._indexes: dict[str, tuple[str, CellIndex]] = {}
        self._joined: dict[bool, tuple[str, Joined]] = {}
        self._newest: tuple[str, Newest | None] = ("", None)
        self.entries: Mapping[str, Entry] = {}
        self.version = ""
        self.info = self._read_run()
        self.refresh()

    def refresh(self) -> bool:
        """List the files again; True if there is something that was not there before."""
        with self.lock:
            entries = self._list()
            if entries.get(RUN_FILE) != self.entries.get(RUN_FILE):
                info = self._read_run()
                if info.columns != self.info.columns:
                    self._tables.clear()
                self.info = info
            self.entries = entries
            version = self._token()
            if version == self.version:
                return False
            self.version = version
            self._fresh.clear()
            return True

    @property
    def closed(self) -> bool:
        """Whether the newest attempt was closed by its writer."""
        return bool(self.info.attempts) and self.info.attempts[-1].closed is not None

    @property
    def failed(self) -> str | None:
        """What ended the writing of the newest attempt early, if run.json says so."""
        return self.info.attempts[-1].failed if self.info.attempts else None

    @property
    def is_live(self) -> bool:
        """Whether a process still writes: not ended, and a file changed within a minute."""
        changed = max((entry.changed for entry in self.entries.values()), default=0)
        ended = self.closed or self.failed is not None
        return not ended and time.time() - changed / 1e9 < _LIVE_SECONDS

    def tables(self, names: tuple[str, ...]) -> list[PartTable]:
        """Tables with all that is in their files, as of one and the same listing."""
        with self.lock:
            for _ in range(_TRIES):
                version = self.version
                try:
                    loaded = [self._load(name) for name in names]
                except FileNotFoundError as error:
                    # a stream was sealed after the listing: list again, and find its segment
                    gone = error
                    self.refresh()
                    continue
                if version == self.version:
                    return loaded
            raise DamagedTrace(f"{self.place.shown} loses files while it is read: {gone}") from gone

    def index(self, name: str) -> CellIndex:
        """Where the cells of a table are, newest attempts only."""
        with self.lock:
            version, index = self._indexes.get(name, ("", None))
            if index is None or version != self.version:
                index = self._consistent(lambda: self._make_index(name))
                self._indexes[name] = (self.version, index)
            return index

    def newest(self) -> Newest | None:
        """The newest attempt that has a cell at each step; None if there is only one attempt."""
        with self.lock:
            version, newest = self._newest
            if version != self.version:
                newest = self._consistent(self._find_newest)
                self._newest = (self.version, newest)
            return newest

    def joined(self, *, newest_only: bool) -> Joined:
        """metrics() before it is filtered."""
        with self.lock:
            version, joined = self._joined.get(newest_only, ("", None))
            if joined is None or version != self.version:
                joined = self._consistent(lambda: self._make_joined(newest_only))
                self._joined[newest_only] = (self.version, joined)
            return joined

    def scalars(self, name: str | None) -> pa.Table:
        """The table of scalars, newest attempts only."""
        with self.lock:
            return newest_scalars(self.tables(("scalars",))[0], name)

    def derived_names(self) -> list[str]:
        """The names of the later analyses that are there, sorted."""
        paths = [path.split("/") for path in self.entries]
        return sorted({path[1] for path in paths if path[0] == DERIVED and len(path) == 3})

    def folder_entries(self, folder: str) -> dict[str, Entry]:
        """The files of one table's folder, by name."""
        found = ((path.rpartition("/"), entry) for path, entry in self.entries.items())
        return {file: entry for (parent, _, file), entry in found if parent == folder}

    def _consistent(self, make: Callable[[], _T]) -> _T:
        """What `make` returns, made of one listing: reading may have had to list again."""
        for _ in range(_TRIES):
            version = self.version
            made = make()
            if version == self.version:
                break
        return made

    def _make_index(self, name: str) -> CellIndex:
        (table,) = self.tables((name,))
        return CellIndex(table.parts, self.vocabulary, self.newest())

    def _make_joined(self, newest_only: bool) -> Joined:
        derived = tuple(f"{DERIVED}/{name}" for name in self.derived_names())
        loaded = self.tables((*OPEN_TABLES, *derived))
        return join(
            [_scalars_of(one) for one in loaded if one.parts],
            self._joined_schema(),
            self.vocabulary,
            layers=[layer.name for layer in self.info.layers],
            newest=self.newest() if newest_only else None,
        )

    def _load(self, name: str) -> PartTable:
        without = "values" if name == "updates" else None
        table = self._tables.setdefault(name, PartTable(self.place, name, without=without))
        if name not in self._fresh:
            schema = table_schema(name, self.info.columns) if name in TABLES else None
            table.refresh(self.folder_entries(name), schema)
            self._fresh.add(name)
        return table

    def _joined_schema(self) -> pa.Schema:
        fields: dict[str, pa.Field] = {}
        for name in OPEN_TABLES:
            fields.update((one.name, one) for one in table_schema(name, self.info.columns))
        del fields["singular_values"]
        return pa.schema(list(fields.values()))

    def _find_newest(self) -> Newest | None:
        files = [path.split("/") for path in self.entries]
        names = [parse_name(path[-1]) for path in files if path[0] in CELL_TABLES]
        if len({name.attempt for name in names if name is not None}) < 2:
            return None
        columns = [
            (part.column("step").to_numpy(), part.column("attempt").to_numpy())
            for table in self.tables(CELL_TABLES)
            for part in table.parts
        ]
        steps = np.concatenate([one for one, _ in columns]).astype(np.int64)
        attempts = np.concatenate([one for _, one in columns]).astype(np.int64)
        return Newest.of(steps, attempts)

    def _list(self) -> dict[str, Entry]:
        entries = trace_entries(self.place)
        for _ in range(_TRIES):
            # a listing is not atomic: one made while a stream was sealed may show neither file
            again = trace_entries(self.place)
            same = again.keys() == entries.keys()
            entries = again
            if same or self.closed:
                break
        return {
            path: entry
            for path, entry in entries.items()
            if not path.rpartition("/")[2].startswith(TEMPORARY)
        }

    def _read_run(self) -> RunInfo:
        self._run = self.place.read(RUN_FILE).to_pybytes()
        return parse(self._run, self.place.of(RUN_FILE))

    def _token(self) -> str:
        digest = hashlib.blake2b(self._run, digest_size=8)
        for path, entry in sorted(self.entries.items()):
            if path != RUN_FILE:
                digest.update(f"\n{path} {entry.size}".encode())
        return digest.hexdigest()


def trace_entries(place: Place) -> dict[str, Entry]:
    """The files of a trace by relative path; other people's files beside it are not looked at."""
    entries = {
        path: entry
        for path, entry in place.entries(recursive=False).items()
        if path == RUN_FILE or path.startswith(TEMPORARY)
    }
    for folder in (*TABLES, DERIVED):
        entries |= place.entries(folder)
    return entries


def _scalars_of(table: PartTable) -> pa.Table:
    without = "singular_values" if table.folder == "spectra" else None
    return table.table(without=without)
