"""Compaction: fewer files, the same answers to the bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter, open_trace
from optgeom.traces.columns import one_chunk
from optgeom.traces.format.layout import row_groups
from optgeom.traces.keeping import compact_plan as limits
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import PartName
from optgeom.traces.schema import TABLES
from optgeom.traces.writing import sink
from tests.traces.compacting import everything, parts
from tests.traces.compared import assert_same
from tests.traces.everything import write_everything
from tests.traces.plain_reader import PlainTrace

STEP = pa.int64()
LENGTHS = (0, 10, 3_000, 20_000, 200_000)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three attempts of two ranks in many segments, an analysis, odd numbers, repeated rows."""
    path = tmp_path_factory.mktemp("compact") / "all"
    for writer in write_everything(path):
        writer.close()
    return path


@pytest.fixture
def path(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(kept, tmp_path / "all"))


class TestValues:
    def test_are_the_same_to_the_bit_in_fewer_files(self, path: Path) -> None:
        before, expected = parts(path), everything(open_trace(path))
        rows = verify(path).rows
        made = compact(path)
        after = parts(path)
        assert everything(open_trace(path)) == expected
        assert made.ok
        assert not made.left
        for table in TABLES:
            owners = {(one.attempt, one.rank) for one in before[table]}
            # one segment for each attempt and rank: they are small
            assert [(one.attempt, one.rank) for one in after[table]] == sorted(owners)
            assert sum(one.more + 1 for one in after[table]) == len(before[table])
        assert made.files_before - made.files_after == sum(
            len(before[table]) - len(after[table]) for table in TABLES
        )
        report = verify(path)
        assert report.ok
        assert (report.files, report.rows) == (made.files_after, rows)

    def test_are_what_another_reader_makes_of_the_files(self, path: Path) -> None:
        compact(path)
        assert min(assert_same(open_trace(path), PlainTrace(path)).values()) > 10

    def test_rows_without_lists_keep_their_order_and_the_others_that_of_each_cell(
        self, path: Path
    ) -> None:
        before = {table: rows_of(path, table) for table in TABLES}
        compact(path)
        for table in TABLES:
            after = rows_of(path, table)
            assert sorted(map(repr, after)) == sorted(map(repr, before[table]))
            if table in ("metrics", "scalars", "updates"):
                assert list(map(repr, after)) == list(map(repr, before[table]))
            else:
                assert list(map(repr, by_cell(after))) == list(map(repr, by_cell(before[table])))

    def test_a_second_time_there_is_nothing_to_do(self, path: Path) -> None:
        compact(path)
        before = {one: one.stat().st_mtime_ns for one in path.rglob("*.parquet")}
        made = compact(path)
        assert not made.merged
        assert not made.sealed
        assert {one: one.stat().st_mtime_ns for one in path.rglob("*.parquet")} == before

    def test_a_dry_run_says_what_will_be_and_changes_nothing(self, path: Path) -> None:
        before = {one: one.stat().st_mtime_ns for one in path.rglob("*")}
        said = compact(path, dry_run=True)
        assert {one: one.stat().st_mtime_ns for one in path.rglob("*")} == before
        done = compact(path)
        assert (said.files_before, said.files_after) == (done.files_before, done.files_after)
        assert [(one.table, one.segments, one.rows) for one in said.merged] == [
            (one.table, one.segments, one.rows) for one in done.merged
        ]

    def test_progress_reaches_its_end(self, path: Path) -> None:
        seen: list[tuple[int, int]] = []
        compact(path, progress=lambda *both: seen.append(both))
        assert seen[-1][0] == seen[-1][1] > 10
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def rows_of(path: Path, table: str) -> list[dict[str, Any]]:
    """The rows of all segments by attempt, rank and sequence, read by pyarrow alone."""
    return [
        {**row, "of rank": name.rank}
        for name in parts(path)[table]
        for row in pq.ParquetFile(path / table / name.file).read().to_pylist()
    ]


def by_cell(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorted, with the rows of each cell in their order."""
    names = ("attempt", "of rank", "step", "layer", "stage")
    return sorted(rows, key=lambda row: [row[name] for name in names])


@pytest.mark.parametrize("rows_a_segment", [7, 64])
def test_lists_lie_as_if_they_had_been_sealed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_a_segment: int
) -> None:
    monkeypatch.setattr(sink, "SEAL_ROWS", rows_a_segment)
    dice = np.random.default_rng(0)
    layers = [LayerInfo(f"w{at}", "mlp.up", at, (9, 9), "float32", "o", 0) for at in range(5)]
    with TraceWriter(tmp_path / "run", RunInfo("run", layers=tuple(layers))) as writer:
        for step in range(60):
            for layer in layers:
                length = int(
                    dice.choice([0, 10, 3_000, 20_000, 200_000], p=[0.1, 0.3, 0.4, 0.19, 0.01])
                )
                key = Cell(step, "o", layer.name, "mlp.up", layer.block, "update")
                values = None if length == 10 else dice.random(length, np.float32)
                writer.spectrum(key, values, {"spectrum_status": f"of {length}"})
            if step % 3 == 0:
                writer.flush()
    folder = tmp_path / "run" / "spectra"
    names = parts(tmp_path / "run")["spectra"]
    assert len(names) > 4
    tables = [pq.ParquetFile(folder / name.file).read() for name in names]
    expected = [*row_groups(one_chunk(pa.concat_tables(tables)))]
    compact(tmp_path / "run")
    (merged,) = folder.iterdir()
    file = pq.ParquetFile(merged)
    assert file.num_row_groups == len(expected)
    for at, table in enumerate(expected):
        assert file.read_row_group(at).to_pylist() == table.to_pylist()


class TestPlan:
    @staticmethod
    def of(*sizes: int, step: pa.DataType = STEP) -> list[limits.Candidate]:
        schema = pa.schema([("step", step)])
        return [
            limits.Candidate(PartName(0, 0, at, "0" * 16), size, 1, 1, 1, schema)
            for at, size in enumerate(sizes)
        ]

    @staticmethod
    def spans(found: list[tuple[limits.Candidate, ...]]) -> list[tuple[int, int]]:
        return [(group[0].name.sequence, group[-1].name.last) for group in found]

    def test_neighbours_up_to_a_size(self) -> None:
        at_most = limits.Limits(10, 100, 100, 100)
        assert self.spans(limits.plan(self.of(4, 4, 4, 4, 4), at_most)) == [(0, 1), (2, 3)]
        assert self.spans(limits.plan(self.of(4, 20, 4, 4), at_most)) == [(2, 3)]
        assert limits.plan(self.of(4), at_most) == []

    def test_nothing_over_a_gap_or_another_schema(self) -> None:
        at_most = limits.Limits(100, 100, 100, 100)
        first, _, *others = self.of(1, 1, 1, 1)
        assert self.spans(limits.plan([first, *others], at_most)) == [(2, 3)]
        other = self.of(1, 1, 1, step=pa.int32())
        assert self.spans(limits.plan([*self.of(1), *other[1:]], at_most)) == [(1, 2)]

    @pytest.mark.parametrize(
        ("table", "count", "size"),
        [
            ("metrics", 7, 5 << 20),
            ("spectra", 40, 32 << 20),
            ("neurons", 200, 32 << 20),
            ("updates", 100, 1900 << 20),
            ("updates", 10_000, 100 << 10),
        ],
    )
    def test_few_segments_are_left_of_any_table(self, table: str, count: int, size: int) -> None:
        at_most = limits.LIMITS[table]
        made = limits.plan(self.of(*[size] * count), at_most)
        left = count - sum(len(one) - 1 for one in made)
        assert left <= limits.MOST + 4


MEASURED = """
import sys, tracemalloc
import pyarrow as pa
from optgeom.traces.keeping.compact import compact
pool = pa.default_memory_pool()
tracemalloc.start()
made = compact(sys.argv[1])
print(made.bytes_before, pool.max_memory() + tracemalloc.get_traced_memory()[1])
"""


def test_memory_is_that_of_some_row_groups_however_large_the_trace(tmp_path: Path) -> None:
    """Each of four inputs is held by two row groups of half a megabyte, written by one or two."""
    dice, path = np.random.default_rng(0), tmp_path / "run"
    layers = [LayerInfo(f"w{at}", "mlp.up", at, (8192, 8), "float32", "o", 0) for at in range(24)]
    with TraceWriter(path, RunInfo("run", layers=tuple(layers)), wait=True) as writer:
        for step in range(100):
            for layer in layers:
                key = Cell(step, "o", layer.name, "mlp.up", layer.block, "update")
                writer.neurons(key, dice.random(8192, np.float32))
            if step % 15 == 0:
                writer.update(key, dice.random((2048, 1024), np.float32))
            writer.end_step(step)
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    size, most = map(int, done.stdout.split())
    assert size > 100 << 20
    assert most < 64 << 20
