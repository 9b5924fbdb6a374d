"""What is measured while others replace files: never an error, least of all one that ends a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optgeom.traces.files.listing import file_sizes
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from tests.traces.objects import Objects

MakeCell = Callable[..., Cell]


@pytest.fixture
def goes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Have a folder go at the moment in which it is listed, as another process may remove it."""
    listed, going = os.scandir, set[str]()

    def scandir(path: Any = ".") -> Any:
        if (name := str(path)) in going:
            going.discard(name)
            shutil.rmtree(name)
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        yield lambda folder: going.add(str(folder))


def test_what_goes_meanwhile_is_left_out(tmp_path: Path, goes: Callable[[Path], None]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f".{folder}").write_bytes(bytes(10))
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / ".a")
    assert sorted(file_sizes(tmp_path)) == [(".a", 10), (".b", 10)]
    goes(tmp_path / "b")
    assert [*file_sizes(tmp_path)] == [(".a", 10)]
    assert [*file_sizes(tmp_path / "b")] == []


def test_the_size_of_a_trace_whose_folder_goes(
    tmp_path: Path, info: RunInfo, goes: Callable[[Path], None]
) -> None:
    with TraceWriter(tmp_path / "run", info) as writer:
        (tmp_path / "run" / "derived").mkdir()
        goes(tmp_path / "run" / "derived")
        sizes = [one.stat().st_size for one in (tmp_path / "run").iterdir() if one.is_file()]
        assert writer.size == sum(sizes)


@pytest.mark.usefixtures("quick")
def test_a_rank_that_ends_does_not_end_the_capture_of_another(
    objects: Objects, uri: str, info: RunInfo, cell: MakeCell, goes: Callable[[Path], None]
) -> None:
    with TraceWriter(uri, info) as writer:
        other = writer.path.with_name("a0000-r00001-0123abcd")
        other.mkdir()
        goes(other)
        writer.update(cell(0), np.ones((8, 4), np.float32))
        writer.end_step(0)
        assert writer.flush()
        assert not other.exists()
    assert writer.failure is None
    assert open_trace(uri).steps(table="updates").tolist() == [0]
