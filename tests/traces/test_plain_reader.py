"""docs/traces.md is enough: a reader that was written by it shows what optgeom shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.traces import open_trace
from optgeom.traces.keeping.compact import compact
from optgeom.traces.names import PartName, superseded
from tests.traces.compared import assert_same
from tests.traces.everything import write_everything
from tests.traces.plain_reader import Damaged, PlainTrace, files_of

KEPT = sorted((Path(__file__).parent / "versions").glob("schema*"))


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[Path]:
    """A trace with one of everything; the streams of its third attempt are still open."""
    writers = write_everything(tmp_path / "all")
    assert [*(tmp_path / "all/metrics").glob(".wal-a0002*.arrows")]
    yield tmp_path / "all"
    for writer in writers:
        writer.close()


def test_the_reader_imports_nothing_of_ours() -> None:
    code = (
        "import sys; import plain_reader; "
        "print([name for name in sys.modules if name.startswith('optgeom')])"
    )
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_it_reads_the_kept_traces(folder: Path) -> None:
    assert_same(open_trace(folder), PlainTrace(folder))


def test_it_reads_one_of_everything(everything: Path) -> None:
    compared = assert_same(open_trace(everything), PlainTrace(everything))
    assert min(compared.values()) > 15, compared


def test_it_reads_a_trace_whose_run_was_closed(trace_path: Path) -> None:
    assert_same(open_trace(trace_path), PlainTrace(trace_path))


def test_it_reads_what_a_killed_process_left(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.traces.everything", str(folder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.kill()
    for stream in folder.glob("*/.wal-*.arrows"):  # cut off as well, in a message and in a line
        with stream.open("ab") as file:
            file.write(b"\xff\xff\xff\xff\x40")
        with stream.with_suffix(".sums").open("ab") as file:
            file.write(b"0000")
    assert [*folder.glob("neurons/.wal-a0002-r00001-*.arrows")]
    assert not open_trace(folder).closed
    assert_same(open_trace(folder), PlainTrace(folder))


def test_it_reads_merged_segments_and_not_what_they_were_made_of(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for writer in write_everything(folder):
        writer.close()
    before = PlainTrace(folder)
    files = {path: path.read_bytes() for path in folder.glob("*/a*.parquet")}
    assert compact(folder).merged
    assert_same(open_trace(folder), PlainTrace(folder))
    assert repr(PlainTrace(folder).metrics()) == repr(before.metrics())
    for path, data in files.items():  # as where the process died before it removed them
        path.write_bytes(data)
    assert_same(open_trace(folder), PlainTrace(folder))
    assert repr(PlainTrace(folder).metrics()) == repr(before.metrics())


names = st.builds(
    PartName,
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 4),
    st.sampled_from([16 * digit for digit in "059f"]),
    st.integers(0, 3),
) | st.builds(PartName, st.integers(0, 1), st.integers(0, 1), st.integers(0, 4))


@given(st.dictionaries(names, st.integers(0, 2), max_size=12))
def test_the_same_files_count(sizes: dict[PartName, int]) -> None:
    """Merged segments stand for those whose sequences they hold, segments for their streams."""
    with TemporaryDirectory() as folder:
        for name, size in sizes.items():
            Path(folder, name.file).write_bytes(b" " * size)
        counted = [one.path.name for one in files_of(Path(folder))]
    assert {*counted} == {name.file for name in sizes.keys() - superseded(sizes).keys()}


def test_a_changed_byte_is_found(everything: Path) -> None:
    segment = next((everything / "neurons").glob("a*.parquet"))
    stream = next((everything / "scalars").glob(".wal-*.arrows"))
    for path in (everything / "run.json", segment, stream):
        whole = path.read_bytes()
        for at in (len(whole) // 3, len(whole) // 2, len(whole) - 12):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(Damaged):
                PlainTrace(everything)
        path.write_bytes(whole)
    PlainTrace(everything)
