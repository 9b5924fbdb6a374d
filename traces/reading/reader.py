"""The files of one trace, as a reader follows them: what is there, what was read, what is new."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.life import heard_from
from optgeom.traces.files.listing import DERIVED, TRIES, Listing
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import RUN_FILE, RunInfo, parse
from optgeom.traces.names import SET_ASIDE, PartName, parse_name
from optgeom.traces.reading.cells import CellIndex, Newest
from optgeom.traces.reading.joined import Joined, join
from optgeom.traces.reading.keys import Vocabulary
from optgeom.traces.reading.part import Source, Vanished
from optgeom.traces.reading.parts import PartTable, by_writer, replaced
from optgeom.traces.reading.scalars import Scalars
from optgeom.traces.schema import CELL_TABLES, OPEN_TABLES, TABLES, table_schema

_T = TypeVar("_T")


class TraceFiles:
    """Reads a trace's files on first use, and after a refresh only those that are new.

    Safe to use from several threads. What it hands out is never changed afterwards.

    Args:
        place: the folder, which holds a run.json.
        cache: for what is read; shared by the traces of a folder.

    Raises:
        DamagedTrace: run.json is truncated or its bytes changed.
        SchemaTooNew: a newer optgeom wrote it.
    """

    def __init__(self, place: Place, cache: Cache):
        self.place = place
        self.cache = cache
        self.vocabulary = Vocabulary()
        self.lock = threading.RLock()
        self._source = Source(place, self.vocabulary, cache)
        self._token = object()
        self._listing = Listing(place)
        self._tables: dict[str, PartTable] = {}
        self._fresh: set[str] = set()
        self._indexes: dict[str, tuple[str, CellIndex]] = {}
        self._newest: tuple[str, Newest | None] = ("", None)
        self._written: dict[str, tuple[str, list[dict[PartName, int]] | None]] = {}
        self.entries: Mapping[str, Entry] = {}
        self.version = self._told = ""
        self.info = self._read_run()
        self.refresh()

    def refresh(self) -> bool:
        """List the files again; True if there is something new since this was asked last."""
        with self.lock:
            self._take_up(self._listing.look())
            told, self._told = self._told, self.version
            return told != self.version

    def _take_up(self, entries: Mapping[str, Entry]) -> None:
        if entries.get(RUN_FILE) != self.entries.get(RUN_FILE):
            info = self._read_run()
            if (info.columns, info.created) != (self.info.columns, self.info.created):
                self._tables.clear()
            self.info = info
        self.entries = entries
        version = self._digest()
        if version != self.version:
            self.version = version
            self._fresh.clear()

    def anew(self, question: Callable[[], _T], before: Callable[[], None] | None = None) -> _T:
        """The answer to a question, asked again where files that it reads were replaced meanwhile.

        Args:
            question: reads from parts of tables.
            before: called before it is asked again.

        Raises:
            DamagedTrace: a segment has gone, and no other stands in its place.
        """
        for _ in range(TRIES):
            try:
                return question()
            except Vanished as error:
                gone = error
            self._find_again(gone)
            if before is not None:
                before()
        raise DamagedTrace(f"{self.place.shown} loses files while it is read: {gone}") from gone

    def _find_again(self, gone: Vanished) -> None:
        """List the files again where one has gone.

        Raises:
            DamagedTrace: none stands in its place, and no repair has set it aside. The listing
                before stays, so that whoever asks next is told too.
        """
        with self.lock:
            if gone.path not in self.entries:
                return  # another thread has listed them since
            entries = self._listing.look(anew=True)
            is_lost = gone.path not in entries and not replaced(gone.path, entries)
            if is_lost and not self.place.has(f"{SET_ASIDE}/{gone.path}"):
                raise DamagedTrace(str(gone)) from gone
            self._take_up(entries)

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
        """Whether a process seems to write it: not ended, and touched within a minute."""
        return heard_from(self.info, self.entries) is not None

    @property
    def last_step(self) -> int | None:
        """The last step of any row; None where there is no row."""
        with self.lock:
            steps = [part.keys["step"].values for one in self.tables(TABLES) for part in one.parts]
            return max((int(one[-1]) for one in steps if len(one)), default=None)

    def tables(self, names: tuple[str, ...]) -> list[PartTable]:
        """Tables with all that is in their files, as of one and the same listing."""
        with self.lock:
            for _ in range(TRIES):
                try:
                    return [self._load(name) for name in names]
                except FileNotFoundError as error:
                    # a stream was sealed after the listing: list again, and find its segment
                    gone = error
                    self._take_up(self._listing.look(anew=True))
            raise DamagedTrace(f"{self.place.shown} loses files while it is read: {gone}") from gone

    def index(self, name: str) -> CellIndex:
        """Where the cells of a table are, newest attempts only."""
        version, known = self._indexes.get(name, ("", None))
        if known is not None and version == self.version:
            return known  # no thread waits for what others are making
        with self.lock:
            version, index = self._indexes.get(name, ("", None))
            if index is None or version != self.version:
                made = self._indexes[name] = self._consistent(lambda: self._make_index(name))
                index = made[1]
            return index

    def at_step(self, name: str, step: int) -> CellIndex | None:
        """Where the cells of one step are, without opening all files of a table.

        Returns:
            None where all of them are needed: several attempts may have come to the step. What it
            does not find may be there all the same (PartTable.at_step).
        """
        with self.lock:
            version, known = self._indexes.get(name, ("", None))
            if known is not None and version == self.version:
                return known
            version, written = self._written.get(name, ("", None))
            if version != self.version:
                is_alone = self._attempts() < 2
                written = by_writer(self._folder_entries(name)) if is_alone else None
                self._written[name] = self.version, written
            if written is None:
                return None
            try:
                parts = self._table(name).at_step(written, step)
            except FileNotFoundError:
                return None  # a segment was replaced after the listing
            return CellIndex(parts, None)

    def newest(self) -> Newest | None:
        """The newest attempt that has a cell at each step; None if there is only one attempt."""
        with self.lock:
            version, newest = self._newest
            if version != self.version:
                version, newest = self._newest = self._consistent(self._find_newest)
            return newest

    def joined(self, *, newest_only: bool) -> Joined:
        """metrics() before it is filtered."""
        return self.kept(
            ("joined", newest_only), lambda: self._make_joined(newest_only), lambda one: one.nbytes
        )

    def scalars(self) -> Scalars:
        """The table of scalars, newest attempts only."""
        return self.kept(
            ("scalars",),
            lambda: Scalars.of(self.tables(("scalars",))[0]),
            lambda one: int(one.table.nbytes),
        )

    def kept(
        self, key: tuple[object, ...], make: Callable[[], _T], nbytes: Callable[[_T], int]
    ) -> _T:
        """What was made of the files as they are now, from the cache while it is there.

        Args:
            key: names it.
            make: makes it.
            nbytes: its size.
        """
        found: tuple[str, _T] | None = self.cache.get((self._token, *key))
        if found is not None and found[0] == self.version:
            return found[1]  # as in index
        with self.lock:
            found = self.cache.get((self._token, *key))
            if found is not None and found[0] == self.version:
                return found[1]
            version, made = self._consistent(make)
            self.cache.put((self._token, *key), (version, made), nbytes(made))
            return made

    def derived_tables(self) -> tuple[str, ...]:
        """The folders of the later analyses that are there, by name."""
        paths = [path.split("/") for path in self.entries]
        names = {path[1] for path in paths if path[0] == DERIVED and len(path) == 3}
        return tuple(f"{DERIVED}/{name}" for name in sorted(names))

    def _consistent(self, make: Callable[[], _T]) -> tuple[str, _T]:
        """What `make` returns, made of one listing: reading may have had to list again.

        Returns:
            The version that it was made of, and what was made. Where files are replaced each time,
            that is not the version of now: it is made anew when it is asked next.
        """
        for _ in range(TRIES):
            version = self.version
            made = self.anew(make)
            if version == self.version:
                break
        return version, made

    def _make_index(self, name: str) -> CellIndex:
        (table,) = self.tables((name,))
        return CellIndex(table.parts, self.newest())

    def _make_joined(self, newest_only: bool) -> Joined:
        loaded = self.tables((*OPEN_TABLES, *self.derived_tables()))
        tables = []
        for one in loaded:
            names = [name for name in one.types if (one.folder, name) != _LISTS]
            table = one.table(names)
            if table is not None:
                tables.append(table)
        return join(
            tables,
            self._joined_schema(),
            self.vocabulary,
            layers=[layer.name for layer in self.info.layers],
            newest=self.newest() if newest_only else None,
        )

    def _table(self, name: str) -> PartTable:
        if name not in self._tables:
            schema = table_schema(name, self.info.columns) if name in TABLES else None
            self._tables[name] = PartTable(self._source, name, schema)
        return self._tables[name]

    def _load(self, name: str) -> PartTable:
        table = self._table(name)
        if name not in self._fresh:
            table.refresh(self._folder_entries(name))
            self._fresh.add(name)
        return table

    def _folder_entries(self, folder: str) -> dict[str, Entry]:
        found = ((path.rpartition("/"), entry) for path, entry in self.entries.items())
        return {file: entry for (parent, _, file), entry in found if parent == folder}

    def _joined_schema(self) -> pa.Schema:
        fields: dict[str, pa.Field] = {}
        for name in OPEN_TABLES:
            fields.update((one.name, one) for one in table_schema(name, self.info.columns))
        del fields["singular_values"]
        return pa.schema(list(fields.values()))

    def _find_newest(self) -> Newest | None:
        if self._attempts() < 2:
            return None
        pairs = [
            part.keys.pairs("step", "attempt")
            for table in self.tables(CELL_TABLES)
            for part in table.parts
        ]
        steps, attempts = (np.concatenate(one) for one in zip(*pairs, strict=True))
        return Newest.of(steps, attempts)

    def _attempts(self) -> int:
        files = [path.split("/") for path in self.entries]
        names = [parse_name(path[-1]) for path in files if path[0] in CELL_TABLES]
        return len({name.attempt for name in names if name is not None})

    def _read_run(self) -> RunInfo:
        self._run, name = self.place.read(RUN_FILE), self.place.of(RUN_FILE)
        try:
            return parse(self._run, name)
        except DamagedTrace:
            # elsewhere it may be replaced between the asking for its size and for its bytes
            if self.place.is_local:
                raise
        self._run = self.place.read(RUN_FILE)
        return parse(self._run, name)

    def _digest(self) -> str:
        digest = hashlib.blake2b(self._run, digest_size=8)
        for path, entry in sorted(self.entries.items()):
            if path != RUN_FILE:
                digest.update(f"\n{path} {entry.size}".encode())
        return digest.hexdigest()


_LISTS = ("spectra", "singular_values")
