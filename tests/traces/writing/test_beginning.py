"""A writer that cannot begin leaves nothing, and the next one begins."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from optgeom.traces.errors import TraceError
from optgeom.traces.files.place import find
from optgeom.traces.info import RUN_FILE, RunInfo
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import attempts
from tests.traces.objects import Objects
from tests.traces.stores import away, let_mirrors_end, spools

Record = Callable[..., None]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }


def _open_files_under(folder: Path) -> list[str]:
    """What this process holds open in a folder; other tests' files come and go meanwhile."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(handle))
    return [one for one in found if one.startswith(str(folder))]


@contextmanager
def no_thread(name: str) -> Iterator[None]:
    """No thread of this name starts, as where a user may have no more of them."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


@contextmanager
def full(file: str) -> Iterator[None]:
    """Files that begin with this name find a full disk."""
    write, opened = Path.write_text, Path.open

    def refuse(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(self: Path, *arguments: Any, **more: Any) -> Any:
            if file in self.name:
                raise OSError(28, "No space left on device")
            return make(self, *arguments, **more)

        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", refuse(write))
        patch.setattr(Path, "open", refuse(opened))
        yield


class TestLocally:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_thread_that_does_not_start(self, tmp_path: Path, info: RunInfo, rank: int) -> None:
        with no_thread("optgeom-writer"), pytest.raises(RuntimeError, match="new thread"):
            TraceWriter(tmp_path / "run", info, rank=rank)
        assert [*tmp_path.iterdir()] == []

    def test_nor_in_a_run_that_is_there(self, trace_path: Path, info: RunInfo) -> None:
        before = contents(trace_path)
        with no_thread("optgeom-writer"), pytest.raises(RuntimeError, match="new thread"):
            TraceWriter(trace_path, info, start_step=40)
        assert contents(trace_path) == before


@pytest.mark.usefixtures("quick")
class TestInAStore:
    @pytest.mark.parametrize("file", [".spool.json", "-run.json"])
    def test_a_spool_that_finds_no_room(
        self, objects: Objects, uri: str, info: RunInfo, record: Record, tmp_path: Path, file: str
    ) -> None:
        with full(file), pytest.raises(TraceError, match=r"No space left.* Set TMPDIR"):
            TraceWriter(uri, info)
        assert objects.names(find(uri).root.partition("/")[2]) == []
        assert [one.name for one in (tmp_path / "temporary").glob("*/*")] == []
        with TraceWriter(uri, info) as writer:
            record(writer, [0])
        assert open_trace(uri).closed

    def test_nor_in_a_run_that_is_there(
        self, objects: Objects, uri: str, info: RunInfo, record: Record, tmp_path: Path
    ) -> None:
        first = TraceWriter(uri, info, close_within=0.1)
        with away(objects):
            record(first, [0, 10])
            first.close()
        let_mirrors_end()
        before = open_trace(uri).info
        for refused in (full("-run.json"), no_thread("optgeom-mirror")):
            with refused, pytest.raises((TraceError, RuntimeError)):
                TraceWriter(uri, info, start_step=20)
            assert open_trace(uri).info == before
            assert spools(tmp_path) == [first.path]
        with TraceWriter(uri, info, start_step=20) as writer:
            assert writer.attempt == 1
        assert open_trace(uri).steps().tolist() == [0, 10]
        assert spools(tmp_path) == []

    def test_a_thread_that_does_not_start(
        self, objects: Objects, uri: str, info: RunInfo, tmp_path: Path
    ) -> None:
        with no_thread("optgeom-writer"), pytest.raises(RuntimeError, match="new thread"):
            TraceWriter(uri, info)
        let_mirrors_end()
        assert "optgeom-mirror" not in [one.name for one in threading.enumerate()]
        assert objects.names(find(uri).root.partition("/")[2]) == []
        assert [one.name for one in (tmp_path / "temporary").glob("*/*")] == []


class TestClaims:
    @pytest.fixture
    def dead(self) -> str:
        """What a process that has died said of itself."""
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        return f"{process.pid} {platform.node()}\n"

    def test_one_of_a_process_that_died_is_none(
        self, tmp_path: Path, info: RunInfo, dead: str
    ) -> None:
        (tmp_path / ".claim-a0000").write_text(dead)
        TraceWriter(tmp_path, info).close()
        (tmp_path / ".claim-a0001").write_text(dead)
        with TraceWriter(tmp_path, info, start_step=5) as writer:
            assert writer.attempt == 1
        assert [*tmp_path.glob(".claim*")] == []

    @pytest.mark.usefixtures("quick")
    def test_nor_in_a_store(self, objects: Objects, uri: str, info: RunInfo, dead: str) -> None:
        objects.put(f"{find(uri).root}/.claim-a0000-{'0' * 16}", dead.encode())
        TraceWriter(uri, info).close()
        assert open_trace(uri).closed

    def test_one_that_counts_is_named(
        self, tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts.random, "uniform", lambda *_: 0.0)  # type: ignore[attr-defined]
        for said, named in (
            (f"{os.getpid()} {platform.node()}", f"process {os.getpid()} on {platform.node()}"),
            ("12 another-machine", "process 12 on another-machine"),
        ):
            (tmp_path / ".claim-a0000").write_text(f"{said}\n")
            with pytest.raises(TraceError) as caught:
                TraceWriter(tmp_path, info)
            assert f"made or resumed by {named} (.claim-a0000): try again" in str(caught.value)

    def test_one_that_finds_no_room_is_not_left(
        self, tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            with pytest.raises(TraceError, match="No space left"):
                TraceWriter(tmp_path / "run", info)
        assert [*tmp_path.iterdir()] == []
        assert _open_files_under(tmp_path) == []
        TraceWriter(tmp_path / "run", info).close()
        assert (tmp_path / "run" / RUN_FILE).exists()
