"""Reading sealed segments: nothing is parsed before it was compared with its checksum.

Parquet's page checksums cover the data in the pages, not their headers nor the footer, and a
flipped bit there can end the process or read back as wrong numbers. So a digest over the footer
stands in the file's name, and the footer holds a CRC-32 of the bytes of each row group.

What is parsed is what was compared: bytes are fetched once, by ranges, and Arrow never touches the
file itself. So a file system that fails is no damage, and an object store is asked as rarely as can
be.

Whoever makes a file can make its checksums too. So whatever it claims of sizes is compared with
`optgeom.traces.limits` before memory is taken for it, and what was parsed is validated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from optgeom.traces import limits
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.window import Reads, Window
from optgeom.traces.format.footer import Footer, first_line
from optgeom.traces.limits import refuse

_PORTION = 16 << 20


class Segment:
    """One sealed segment, opened for reading.

    Args:
        file: the whole segment; whoever opened it closes it.
        name: how to call it in errors.
        digest: the digest from its name.
        checked: numbers of row groups whose bytes were compared already; more are added.
        footer: where it was read before.

    Raises:
        DamagedTrace: it is truncated, or its footer changed.
    """

    def __init__(
        self,
        file: Reads,
        name: str,
        digest: str,
        checked: set[int] | None = None,
        footer: Footer | None = None,
    ):
        self._file, self._name = file, name
        self._checked = set() if checked is None else checked
        self._decoded = 0
        self.footer = Footer.read(file, name, digest) if footer is None else footer

    @property
    def groups(self) -> range:
        """The numbers of the row groups."""
        return self.footer.groups

    def read(
        self, groups: Iterable[int], names: Sequence[str] | None = None, *, sums: bool = True
    ) -> pa.Table:
        """Some row groups, with every checksum compared.

        Args:
            groups: their numbers.
            names: only these columns; None: all.
            sums: compare the row groups' CRC-32 too, which reads all their columns unless it was
                done before; without it page checksums alone are compared.

        Raises:
            DamagedTrace: a byte of them changed.
        """
        tables: list[pa.Table] = []
        for asked in self._portions(list(groups)):
            new = [one for one in asked if sums and one not in self._checked]
            ranges = [self.footer.whole(one)[:2] for one in new]
            for one in set(asked).difference(new):
                ranges += self.footer.chunks(one, names)
            window = self._fetch(ranges)
            self._compare(new, window)
            tables.append(self.parse(window, asked, names, pages=len(new) < len(asked)))
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)

    def _portions(self, groups: list[int]) -> Iterator[list[int]]:
        """Row groups that are fetched together: one large segment is not in memory as a whole."""
        portion: list[int] = []
        size = 0
        for group in groups:
            start, end, _ = self.footer.whole(group)
            if portion and size + end - start > _PORTION:
                yield portion
                portion, size = [], 0
            portion.append(group)
            size += end - start
        yield portion

    def whole(self, groups: Iterable[int]) -> Window:
        """All bytes of some row groups, compared with their CRC-32.

        Raises:
            DamagedTrace: one of them changed.
        """
        asked = list(groups)
        window = self._fetch([self.footer.whole(one)[:2] for one in asked])
        self._compare(asked, window)
        return window

    def parse(
        self,
        window: Window,
        groups: Iterable[int],
        names: Sequence[str] | None = None,
        *,
        pages: bool = False,
        views: bool = False,
    ) -> pa.Table:
        """Some row groups of which all that is asked was fetched.

        Args:
            window: what was fetched.
            groups: their numbers.
            names: only these columns; None: all.
            pages: compare the checksums of pages, where the window was not compared as a whole.
            views: bytes as binary views: values of megabytes that are gathered in one buffer are
                moved each time that it grows.

        Raises:
            DamagedTrace: a byte of them changed.
        """
        asked = list(groups)
        try:
            self._decoded += sum(self.footer.decoded(window, one, names) for one in asked)
            most = limits.room(self.footer.size)
            refuse(self._name, "bytes once it is uncompressed", self._decoded, most)
            parquet = pq.ParquetFile(
                window.open(),
                metadata=self.footer.metadata,
                page_checksum_verification=pages,
                binary_type=pa.binary_view() if views else None,
                pre_buffer=False,
            )
            found: pa.Table = parquet.read_row_groups(
                asked, columns=None if names is None else list(names), use_threads=False
            )
            found.validate(full=True)
        except DamagedTrace:
            raise
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            raise DamagedTrace(f"{self._name} is damaged: {first_line(error)}") from error
        # the header of a page has no checksum, and a page of no rows is none to Arrow
        rows = sum(self.footer.metadata.row_group(one).num_rows for one in asked)
        if found.num_rows != rows:
            raise DamagedTrace(f"{self._name} is damaged: {found.num_rows} rows of {rows}")
        return found

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> Window:
        try:
            return Window.read(self._file, self.footer.size, ranges)
        except EOFError:
            raise DamagedTrace(
                f"{self._name} is truncated: it was longer when it was opened. "
                "Restore it from a copy"
            ) from None

    def _compare(self, groups: Iterable[int], window: Window) -> None:
        for group in groups:
            start, end, crc = self.footer.whole(group)
            if zlib.crc32(window.at(start, end - start)) != crc:
                raise DamagedTrace(
                    f"{self._name} is damaged: bytes {start} to {end} changed. "
                    "Restore it from a copy"
                )
            self._checked.add(group)


def read_segment(file: Reads, name: str, digest: str) -> pa.Table:
    """Read a whole sealed segment, with every checksum compared.

    Raises:
        DamagedTrace: it is truncated, or any byte of it changed.
    """
    segment = Segment(file, name, digest)
    return segment.read(segment.groups)
