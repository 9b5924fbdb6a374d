"""Repair of merged segments beside some of the files that they were made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optgeom.traces import open_trace
from optgeom.traces.format import layout, segment
from optgeom.traces.format.footer import Footer
from optgeom.traces.keeping import compact_merge
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.repair import repair
from optgeom.traces.keeping.same_rows import hashes
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import SET_ASIDE, parse_name
from optgeom.traces.writing import sink
from tests.traces.compacting import age, written

TABLES = ("metrics", "spectra", "neurons", "updates", "scalars")
STEPS = range(20)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed run of four segments a table, of raw matrices twenty."""
    path = tmp_path_factory.mktemp("sources") / "run"
    with pytest.MonkeyPatch.context() as small:
        small.setattr(sink, "SEAL_ROWS", 5)
        small.setattr(layout, "GROUP_BYTES", 4000)
        written(path, STEPS).close()
    return path


@pytest.fixture(scope="module")
def merged_once(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merged") / "run"
    shutil.copytree(sources, path)
    age(path)
    with pytest.MonkeyPatch.context() as small:
        for module in (layout, compact_merge):
            small.setattr(module, "GROUP_BYTES", 4000)
        for other in (segment, compact_merge):
            small.setattr(other, "SCALAR_ROWS_PER_GROUP", 4)
        compact(path)
    return path


@pytest.fixture
def merged(merged_once: Path, tmp_path: Path) -> Path:
    """The same with one segment a table, of several row groups."""
    shutil.copytree(merged_once, tmp_path / "run")
    return tmp_path / "run"


def damage(path: Path, group: int) -> list[int]:
    """Change a byte of a row group; returns the steps of its rows."""
    steps = pq.ParquetFile(path).read_row_group(group, ["step"]).column("step").to_pylist()
    with path.open("rb") as file:
        data = file.read()
    name = parse_name(path.name)
    assert name is not None

    class Whole:
        def size(self) -> int:
            return len(data)

        def read_at(self, nbytes: int, offset: int) -> bytes:
            return data[offset : offset + nbytes]

    start, end, _ = Footer.read(Whole(), path.name, name.digest).whole(group)
    changed = bytearray(data)
    changed[(start + end) // 2] ^= 1
    path.write_bytes(changed)
    return [int(one) for one in steps]


def put_back(sources: Path, merged: Path, table: str, which: Callable[[int], bool]) -> set[int]:
    """Put back some of the sources, as if removing them had been cut off; returns their steps."""
    found: set[int] = set()
    for number, one in enumerate(sorted((sources / table).glob("a*.parquet"))):
        if which(number):
            shutil.copy(one, merged / table / one.name)
            found.update(pq.read_table(one, columns=["step"]).column("step").to_pylist())
    return found


def steps(path: Path, table: str) -> list[int]:
    trace = open_trace(path)
    if table == "scalars":
        return trace.scalars("loss").column("step").to_pylist()
    assert trace.index(table).repeated() == 0
    return sorted(int(step) for part in trace.index(table).parts for step in part.keys["step"])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("which", [lambda n: n >= 2, lambda n: n % 2 == 1, lambda n: n == 0])
def test_rows_of_a_whole_source_stay(
    sources: Path, merged: Path, table: str, which: Callable[[int], bool]
) -> None:
    (victim,) = (merged / table).glob("a*.parquet")
    there = put_back(sources, merged, table, which)
    groups = pq.ParquetFile(victim).num_row_groups
    lost = {one for group in (0, groups - 2) for one in damage(victim, group)} - there
    age(merged)
    (action,) = repair(merged)
    assert action.damage
    assert (merged / SET_ASIDE / table / victim.name).exists()
    assert lost < {*STEPS}
    assert steps(merged, table) == [one for one in STEPS if one not in lost]
    assert verify(merged).findings == ()
    age(merged)
    compact(merged)
    assert steps(merged, table) == [one for one in STEPS if one not in lost]
    age(merged)
    assert repair(merged) == ()


@pytest.mark.parametrize("table", TABLES)
def test_what_is_whole_of_a_damaged_source_stays_too(
    sources: Path, merged: Path, table: str
) -> None:
    """Of all that is there, each row that can be read, once; nothing is deleted."""
    (victim,) = (merged / table).glob("a*.parquet")
    put_back(sources, merged, table, lambda number: number < 3)
    first, second, *_ = sorted(one for one in (merged / table).glob("a*.parquet") if one != victim)
    lost = {*damage(victim, 0)}
    lost &= {*damage(second if table == "updates" else first, 0)}
    before = {one.name for one in (merged / table).iterdir()}
    age(merged)
    repair(merged)
    assert steps(merged, table) == [one for one in STEPS if one not in lost]
    assert verify(merged).ok
    aside = {one.name for one in (merged / SET_ASIDE / table).iterdir()}
    assert before <= aside | {one.name for one in (merged / table).iterdir()}


def test_where_all_rows_are_elsewhere_nothing_is_written(sources: Path, merged: Path) -> None:
    (victim,) = (merged / "neurons").glob("a*.parquet")
    put_back(sources, merged, "neurons", lambda number: True)
    damage(victim, 0)
    age(merged)
    (action,) = repair(merged)
    assert (action.into, action.rescued) == ("", 0)
    assert "counts again" in action.reason
    assert steps(merged, "neurons") == [*STEPS]


def test_rows_are_the_same_by_their_bits_in_any_order() -> None:
    """Each pair of rows differs in one thing: compared with what Python says of their values."""
    words = pa.array(["x", "y", None, "x"]).dictionary_encode()
    table = pa.table(
        {
            "step": pa.array([1, 1, None, 1], pa.int16()),
            "value": pa.array([0.0, -0.0, np.nan, 0.0]),
            "word": words,
            "norms": pa.array([[1.0, 2.0], [], None, [1.0, 2.0]], pa.list_(pa.float32())),
            "values": pa.array([b"a", b"", None, b"a"]),
            "at": pa.array([1, 2, None, 1], pa.timestamp("us")),
            "is": pa.array([True, False, None, True]),
        }
    )
    found = hashes(table)
    assert found[0] == found[3]
    assert len({*found.tolist()}) == 3
    assert (hashes(table.slice(1)) == found[1:]).all()
    assert (hashes(table.take([3, 2, 1, 0])) == found[::-1]).all()
    for name in table.schema.names:
        # that column alone tells the rows apart
        assert len({*hashes(table.select([name])).tolist()}) == (2 if name == "step" else 3)
